{{/* (root, component, name) -> metadata of a hook's Job, but for its annotations. */}}
{{- define "sheepfold.hookMetadata" -}}
name: {{ include "sheepfold.fullname" .root }}-{{ .name }}
labels:
  {{- include "sheepfold.labels" . | nindent 2 }}
{{- end }}

{{- define "sheepfold.hookLabels" -}}
{{ include "sheepfold.labels" . }}
{{- if eq .component "client" }}
{{ include "sheepfold.workerLabel" .root }}
{{- end }}
{{- end }}

{{/* Pod of a hook or a test. It runs once, on any node, for a minute at most. */}}
{{- define "sheepfold.oncePod" -}}
restartPolicy: Never
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sheepfold.onceContainer" -}}
image: {{ include "sheepfold.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources:
  {{- toYaml .root.Values.hooks.resources | nindent 2 }}
securityContext:
  {{- include "sheepfold.containerSecurity" .root | nindent 2 }}
{{- end }}

{{/* What a worker is given: one line, as a file. */}}
{{- define "sheepfold.workerEnv" -}}
- {name: SHEEPFOLD, value: "file:/etc/sheepfold/connect/connection"}
- {name: HOME, value: /tmp}
{{- end }}

{{/* (root, secret) -> the volume of a line, and /tmp. */}}
{{- define "sheepfold.connectVolume" -}}
- name: connect
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    {{- if not .root.Values.hooks.enabled }}
    optional: true
    {{- end }}
- name: tmp
  emptyDir: {}
{{- end }}

{{/* What hooks need, there before them and gone after them. */}}
{{- define "sheepfold.earlyHook" -}}
helm.sh/hook: pre-install,pre-upgrade,post-install,post-upgrade
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
