{{/* Name of the release's objects: the release's own name where it already says retain. */}}
{{- define "retain.name" -}}
{{- if contains "retain" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-retain" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{/* Labels that select pods: dict "root" $ "component" name. */}}
{{- define "retain.selector" -}}
app.kubernetes.io/name: retain
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "retain.labels" -}}
{{ include "retain.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: retain
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Image reference: dict "root" $ "image" key under images. A digest wins; without one where digests are asked for, rendering fails. */}}
{{- define "retain.image" -}}
{{- $images := .root.Values.images }}
{{- $image := index $images .image }}
{{- $own := has .image (list "cpu" "gpu") }}
{{- $name := $own | ternary (printf "retain-%s" .image) $image.repository }}
{{- if $images.registry }}{{ $name = printf "%s/%s" $images.registry $name }}{{ end }}
{{- if $image.digest }}{{ printf "%s@%s" $name $image.digest }}
{{- else if $images.requireDigests }}{{ fail (printf "images.%s has no digest, and images.requireDigests is on: set images.%s.digest to sha256:…" .image .image) }}
{{- else if $image.tag }}{{ printf "%s:%s" $name $image.tag }}
{{- else if $own }}{{ printf "%s:%s" $name .root.Chart.AppVersion }}
{{- else }}{{ fail (printf "images.%s has neither tag nor digest" .image) }}
{{- end }}
{{- end }}

{{/* Pod security, profile `restricted`; OpenShift chooses the ids itself. */}}
{{- define "retain.podSecurity" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: {{ .Values.security.runAsUser }}
runAsGroup: {{ .Values.security.runAsGroup }}
fsGroup: {{ .Values.security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "retain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Where a pod may run: dict "root" $ "place" values with nodeSelector, tolerations, priorityClassName. */}}
{{- define "retain.placement" -}}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .place.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .place.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .place.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Kueue's labels of what this chart starts. */}}
{{- define "retain.queue" -}}
{{- if .Values.kueue.enabled }}
kueue.x-k8s.io/queue-name: {{ .Values.kueue.queueName }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "retain.trackingUri" -}}
{{- if .Values.mlflow.enabled }}http://{{ include "retain.name" . }}-mlflow.{{ .Release.Namespace }}.svc.cluster.local:{{ .Values.mlflow.port }}{{ else }}{{ .Values.mlflow.externalUrl }}{{ end -}}
{{- end }}

{{/* Plain settings that every process of ours reads, as key: value lines. */}}
{{- define "retain.settings" -}}
MLFLOW_TRACKING_URI: {{ include "retain.trackingUri" . | quote }}
MLFLOW_EXPERIMENT_NAME: {{ .Values.mlflow.experiment | quote }}
MLFLOW_DISABLE_TELEMETRY: "true"
GX_ANALYTICS_ENABLED: "false"
HF_UPDATE_DOWNLOAD_COUNTS: "false"
HF_HUB_DISABLE_TELEMETRY: "1"
AWS_REGION: {{ .Values.s3.region | quote }}
{{- with .Values.s3.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
MLFLOW_S3_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- if .Values.runs.offline }}
HF_HUB_OFFLINE: "1"
{{- end }}
{{- end }}

{{/* The same as a container's env list, with a writable home in /tmp. */}}
{{- define "retain.env" -}}
- {name: HOME, value: /tmp}
{{- range $key, $value := include "retain.settings" . | fromYaml }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- if .Values.trust.configMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- {name: {{ . }}, value: /etc/retain/trust/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "retain.s3Secret" -}}
{{- with .Values.s3.secret }}
{{- if .name }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .accessKey }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .secretKey }}}}
{{- end }}
{{- end }}
{{- end }}

{{- define "retain.extraEnv" -}}
{{- range $key, $value := . }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "retain.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.trust.configMap }}
- {name: trust, mountPath: /etc/retain/trust, readOnly: true}
{{- end }}
{{- end }}

{{/* dict "root" $ "tmp" size of the scratch space. */}}
{{- define "retain.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .tmp }}}
{{- with .root.Values.trust }}
{{- if .configMap }}
- name: trust
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}

{{/* One side of a network policy rule from a list of peers: dict "side" to|from "peers" list. */}}
{{- define "retain.peers" -}}
{{- $side := .side }}
{{- range .peers }}
- {{ $side }}:
    {{- if .cidr }}
    - ipBlock: {cidr: {{ .cidr | quote }}}
    {{- else }}
    - podSelector: {{ if .podLabels }}{matchLabels: {{ toJson .podLabels }}}{{ else }}{}{{ end }}
      {{- with .namespace }}
      namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
      {{- end }}
    {{- end }}
  {{- $ports := .ports | default $.ports }}
  {{- if $ports }}
  ports:
    {{- range $ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
