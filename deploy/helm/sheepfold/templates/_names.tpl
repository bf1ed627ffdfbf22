{{/* Names, labels, addresses: the same words everywhere. */}}

{{- define "sheepfold.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* (root, component) -> labels that never change, for selectors. */}}
{{- define "sheepfold.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "sheepfold.labels" -}}
{{ include "sheepfold.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What workers carry, so that network policies let them in. */}}
{{- define "sheepfold.workerLabel" -}}
sheepfold/worker-of: {{ include "sheepfold.fullname" . }}
{{- end }}

{{- define "sheepfold.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- $own := printf "%s%s" $.Chart.AppVersion (ternary "-cuda" "" $.Values.gpu.enabled) -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ default $own .tag }}{{ end }}
{{- end -}}
{{- end }}

{{/* The one headless Service, and with it the end of the name that every server pod has. */}}
{{- define "sheepfold.domain" -}}
{{ include "sheepfold.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "sheepfold.coordinator" -}}
{{ include "sheepfold.fullname" . }}-coordinator-0.{{ include "sheepfold.domain" . }}:7070
{{- end }}

{{/* Where shards link: with TLS an address of their own, which asks for their certificate. */}}
{{- define "sheepfold.servers" -}}
{{ include "sheepfold.fullname" . }}-coordinator-0.{{ include "sheepfold.domain" . }}:{{ ternary 7072 7070 (ne .Values.tls.mode "none") }}
{{- end }}

{{/* Names that the servers' certificate must hold, one a line. */}}
{{- define "sheepfold.certificateNames" -}}
{{- printf "*.%s" (include "sheepfold.domain" .) }}
{{- if .Values.external.mode }}
{{ printf "coordinator.%s" .Values.external.domain }}
{{- range $shard := until (int .Values.shards.count) }}
{{ printf "shard-%d.%s" $shard $.Values.external.domain }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sheepfold.hasTls" -}}
{{- if ne .Values.tls.mode "none" }}true{{ end }}
{{- end }}

{{- define "sheepfold.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" }}{{ .Values.tls.existingSecret }}{{ else }}{{ include "sheepfold.fullname" . }}-tls{{ end }}
{{- end }}

{{- define "sheepfold.tokenSecret" -}}
{{- default (printf "%s-token" (include "sheepfold.fullname" .)) .Values.token.existingSecret }}
{{- end }}

{{/* Holds the one line that is all a worker needs. */}}
{{- define "sheepfold.connectSecret" -}}
{{ include "sheepfold.fullname" . }}-connect
{{- end }}

{{/* The same for administrators: it stops jobs and takes them back. */}}
{{- define "sheepfold.adminSecret" -}}
{{ include "sheepfold.fullname" . }}-admin
{{- end }}

{{/* (root, own) -> the port under which a server is reached from outside; `own` is the one it listens on. */}}
{{- define "sheepfold.externalPort" -}}
{{- if eq .root.Values.external.mode "tlsPassthrough" }}443{{ else }}{{ .own }}{{ end }}
{{- end }}
