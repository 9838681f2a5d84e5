from retain import processors

processors.settle()
