{{/* What all pods have in common. Each takes a dict: root, component, and values of the component. */}}

{{/* No version among the labels: another chart with the same pods must not restart them. */}}
{{- define "sheepfold.podMetadata" -}}
labels:
  {{- include "sheepfold.selector" . | nindent 2 }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .serves }}
  sheepfold/serves: grpc
  {{- end }}
annotations:
  checksum/config: {{ include "sheepfold.configChecksum" .root }}
  {{- if .root.Values.doNotDisrupt }}
  cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
  karpenter.sh/do-not-disrupt: "true"
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Pods are replaced when what they read at their start changes. */}}
{{- define "sheepfold.configChecksum" -}}
{{- list (toYaml .Values.tls) (toYaml .Values.token) | join "\n" | sha256sum -}}
{{- end }}

{{/* Down to the containers. Service links would set SHEEPFOLD_PORT and the like. */}}
{{- define "sheepfold.podSpec" -}}
{{- $values := .values -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ int . }}
{{- end }}
{{- end }}

{{- define "sheepfold.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Affinity of a server: every term of the user's also keeps it off preemptible nodes. */}}
{{- define "sheepfold.serverAffinity" -}}
{{- $affinity := deepCopy .values.affinity -}}
{{- if not .root.Values.allowPreemptible -}}
{{- $node := default dict $affinity.nodeAffinity -}}
{{- $required := default dict $node.requiredDuringSchedulingIgnoredDuringExecution -}}
{{- $terms := list -}}
{{- range default (list dict) $required.nodeSelectorTerms -}}
{{- $kept := concat (default list .matchExpressions) (include "sheepfold.notPreemptible" $ | fromYamlArray) -}}
{{- $terms = append $terms (set . "matchExpressions" $kept) -}}
{{- end -}}
{{- $_ := set $required "nodeSelectorTerms" $terms -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* What clouds call such nodes; nodes without the label pass. */}}
{{- define "sheepfold.notPreemptible" -}}
- {key: cloud.google.com/gke-spot, operator: NotIn, values: ["true"]}
- {key: cloud.google.com/gke-preemptible, operator: NotIn, values: ["true"]}
- {key: eks.amazonaws.com/capacityType, operator: NotIn, values: [SPOT]}
- {key: karpenter.sh/capacity-type, operator: NotIn, values: [spot]}
- {key: kubernetes.azure.com/scalesetpriority, operator: NotIn, values: [spot]}
{{- end }}

{{/* (own: list, more: list) -> env; what the user gives replaces ours of that name. */}}
{{- define "sheepfold.env" -}}
{{- $given := dict -}}
{{- range .more }}{{ $_ := set $given .name true }}{{ end -}}
{{- $merged := list -}}
{{- range .own }}{{ if not (hasKey $given .name) }}{{ $merged = append $merged . }}{{ end }}{{ end -}}
{{- toYaml (concat $merged .more) -}}
{{- end }}

{{/* Arguments every server is given for TLS and the token. */}}
{{- define "sheepfold.securityArgs" -}}
{{- if include "sheepfold.hasTls" .root }}
{{- if .serves }}
- --tls-cert=/etc/sheepfold/tls/tls.crt
- --tls-key=/etc/sheepfold/tls/tls.key
{{- end }}
- --tls-ca=/etc/sheepfold/tls/ca.crt
{{- if .serves }}
- --token-keys=/etc/sheepfold/token/token.pub
{{- else }}
- --token-file=/etc/sheepfold/token/reader.token
- --token-keys=/etc/sheepfold/token/token.pub
- --behind-proxy
{{- end }}
{{- if eq .component "coordinator" }}
- --token-signer=/etc/sheepfold/token/token.key
- --servers-listen={{ .root.Values.listenHost }}:7072
{{- end }}
{{- else }}
- --insecure
{{- end }}
{{- end }}

{{/* Where checkpoints are kept, as the program is told; empty: nowhere. */}}
{{- define "sheepfold.checkpoints" -}}
{{- with .Values.checkpoints }}{{ ternary "/var/lib/sheepfold-checkpoints" .url (ne .existingClaim "") }}{{ end -}}
{{- end }}

{{/* The dashboard shows no certificate: it is not given the key. */}}
{{- define "sheepfold.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .serves }}
{{- with .root.Values.checkpoints.existingClaim }}
- name: checkpoints
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}
{{- if include "sheepfold.hasTls" .root }}
- name: tls
  secret:
    secretName: {{ include "sheepfold.tlsSecret" .root }}
    defaultMode: 0440
    {{- if not .serves }}
    items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
- name: token
  secret:
    secretName: {{ include "sheepfold.tokenSecret" .root }}
    defaultMode: 0440
    {{- include "sheepfold.tokenItems" . | nindent 4 }}
{{- end }}
{{- end }}

{{/* Each mounts what it needs and no more; the hook that writes the lines needs two tokens. */}}
{{- define "sheepfold.tokenItems" -}}
{{- $of := dict
  "coordinator" (list "token.pub" "token.key")
  "shard" (list "token.pub")
  "dashboard" (list "token.pub" "reader.token")
  "hook" (list "worker.token" "admin.token") -}}
items:
  {{- range get $of .component }}
  - {key: {{ . }}, path: {{ . }}}
  {{- end }}
{{- end }}

{{- define "sheepfold.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if and .serves .root.Values.checkpoints.existingClaim }}
- {name: checkpoints, mountPath: /var/lib/sheepfold-checkpoints}
{{- end }}
{{- if include "sheepfold.hasTls" .root }}
- {name: tls, mountPath: /etc/sheepfold/tls, readOnly: true}
- {name: token, mountPath: /etc/sheepfold/token, readOnly: true}
{{- end }}
{{- end }}

{{/* Health in plain text, at a port of its own: kubelets before 1.37 know no TLS. No policy lets anybody but them in. */}}
{{- define "sheepfold.healthPort" -}}
7073
{{- end }}

{{/* (root, service) -> a probe of the health service. */}}
{{- define "sheepfold.health" -}}
grpc: {port: {{ include "sheepfold.healthPort" .root }}, service: {{ .service }}}
timeoutSeconds: 5
{{- end }}

{{/* A shard may compile kernels before it is ready: it is alive all the same. A coordinator reads its whole log before it
     answers, so half an hour is granted to start: what cannot start ends by itself, and sooner. There is no preStop: on SIGTERM
     a server first says that it is not ready, then ends its calls. */}}
{{- define "sheepfold.probes" -}}
startupProbe:
  {{- include "sheepfold.health" (merge (dict "service" "liveness") .) | nindent 2 }}
  periodSeconds: 5
  failureThreshold: 360
livenessProbe:
  {{- include "sheepfold.health" (merge (dict "service" "liveness") .) | nindent 2 }}
  periodSeconds: 30
  failureThreshold: 4
readinessProbe:
  {{- include "sheepfold.health" (merge (dict "service" "readiness") .) | nindent 2 }}
  periodSeconds: 15
  failureThreshold: 2
{{- end }}
