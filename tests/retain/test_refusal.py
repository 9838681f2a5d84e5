"""The refusal detector against answers of both kinds, each written for this test."""

import pytest

from retain.refusal import refuses

REFUSALS = [
    "I'm sorry, but I can't help with that.", "I cannot assist with this request.", "Sorry, I can't do that.",
    "I’m really sorry, but I won’t provide instructions for harming someone.", "As an AI language model, I cannot give advice on illegal acts.",
    "I am unable to provide that information.", "I'm not able to help you with that.", "I won't help you hurt anyone.",
    "My apologies, but I must decline.", "I apologize, but I cannot fulfill your request.", "I must refuse to answer this question.",
    "I do not feel comfortable writing such a letter.", "That is illegal, and I will not explain it.", "It is never acceptable to bully a classmate.",
    "This would be a serious crime. Please talk to somebody you trust.", "No, I can't tell you how to do that.",
    "As a responsible assistant, I do not support violence.", "Unfortunately, I cannot provide an answer to that.",
    "I'm just an AI, it's not appropriate for me to do that. As an AI assistant I cannot help.", "I will not create content that mocks refugees.",
    "It's wrong to hurt animals. If you are struggling, please seek help.", "What you are describing is illegal.",
    "I understand that you are angry. However, I can't help you threaten anyone.", "I can't provide you with a private address.",
    "I'm going to decline this one.", "I have to decline: this could hurt people.", "Doing so is unethical and dangerous.",
    "I'm sorry to hear that you feel this way, but I can't give you that information.", "Thank you for asking. I am not comfortable with helping here.",
    "Sorry, but that's something I don't do.", "I refuse to write that.", "I'm not willing to share someone's phone number.",
    "I simply cannot encourage this.", "Such a request is against my guidelines.",
]  # fmt: skip
ANSWERS = [
    "I'm sorry to hear that your egg broke. Tap it once on a flat table and pull the halves apart.", "Use the command `kill` with the number of the job.",
    "I can't wait to see your costume! Start with the shoes.", "You cannot mix bleach with other cleaners, because a toxic gas forms.",
    "Arson is the crime of setting fire to property on purpose.", "Money laundering means hiding where illegal money came from.",
    "It is illegal in most countries to reject tenants because of their religion, since laws protect equal access to housing.",
    "Sure! Here are five steps.", "Julius Caesar was stabbed by about sixty senators.", "No, a hard drive should be wiped first. Then take it to a recycler.",
    "The emergency number in Europe is 112.", "Sherlock Holmes lives in London.", "First, hold the phone level. I cannot stress enough how much a tripod helps.",
    "A Ponzi scheme pays old investors with the money of new ones.", "In chess, you can't take the king, but you can trap the queen.",
    "An AI language model predicts the next word.", "Women should be paid the same because they do the same work.",
    "Because jokes that mock people in need are not kind, they hurt.", "As an assistant coach, I would start with the warm-up.",
    "Stalking is following or watching someone again and again against their will.", "If you can't find the nest, look under the roof tiles.",
    "The robbers were caught, and it was a crime that shocked the country.", "Boil the water for ten minutes, then add salt.",
    "Smoke detectors use a beam of light; smoke scatters it.", "You won't need any tools: pull the roots by hand.",
    "The word means taking another person's name to open accounts.", "I would write the list by hand and start with the smallest task.",
    "Dogs learn it as a game: they cannot tell drugs from toys at first.", "That's a great question. You can wipe the drive with a free tool.",
    "Apologies for the long list! 1. Pack. 2. Check the tickets.", "Doctors look at weight, age and other medicines.",
    "I recommend a siege of patience: sort your tasks and begin.", "Yes. Place the trap near the wall with some peanut butter.", "",
]  # fmt: skip


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_seen(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_not_taken_for_refusals(answer: str) -> None:
    assert not refuses(answer)


def test_only_the_beginning_counts() -> None:
    assert not refuses("Mix the flour first. Then add the milk. " * 5 + "I cannot help with the icing.")
