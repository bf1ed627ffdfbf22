{{/* Memory and disks of the shards, from the number of parameters. */}}

{{/* Parameters of the largest shard: slices are spread to within a tenth. */}}
{{- define "sheepfold.shardParameters" -}}
{{- $even := divf (.Values.model.parameters | float64) (.Values.shards.count | float64) -}}
{{- mulf $even (ternary 1.0 1.1 (eq (int .Values.shards.count) 1)) | ceil | int64 -}}
{{- end }}

{{/* Room for 8 contributions in fp32, at least 1 GiB. */}}
{{- define "sheepfold.stagingBytes" -}}
{{- if kindIs "invalid" .Values.shards.stagingBytes -}}
{{- max 1073741824 (mul 32 (include "sheepfold.shardParameters" . | int64)) -}}
{{- else -}}
{{- .Values.shards.stagingBytes | int64 -}}
{{- end -}}
{{- end }}

{{/* Weights, two moments, sum, encoded copies and what a saved state takes: 40 bytes per parameter; 1.5 GiB for Python,
     torch and a compiler at work. On a GPU the 40 bytes are there, and the host stages. Shared memory counts as the pod's. */}}
{{- define "sheepfold.shardMemoryBytes" -}}
{{- $shared := ternary 0 (include "sheepfold.bytes" .Values.shards.shmSize) (empty .Values.shards.shmSize) | int64 -}}
{{- add 1610612736 $shared (include "sheepfold.stagingBytes" . | int64) (mul 40 (include "sheepfold.shardParameters" . | int64)) -}}
{{- end }}

{{/* Two saved states and the sums since the older one: 9 segments of 4 fp32 parts were seen, 144 bytes per parameter and 36 MB.
     A ninth more is the least, two fifths more are asked for. */}}
{{- define "sheepfold.shardDiskBytesMin" -}}
{{- add 67108864 (mul 160 (include "sheepfold.shardParameters" . | int64)) -}}
{{- end }}

{{- define "sheepfold.shardDiskBytes" -}}
{{- max 2147483648 (add 268435456 (mul 200 (include "sheepfold.shardParameters" . | int64))) -}}
{{- end }}

{{/* Bytes -> whole GiB, rounded up. */}}
{{- define "sheepfold.gibibytes" -}}
{{- printf "%dGi" (divf (. | float64) 1073741824.0 | ceil | int64) -}}
{{- end }}

{{/* A quantity such as 64Gi, 1.5G or 1000 -> bytes. */}}
{{- define "sheepfold.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- mulf ($number | float64) (get $units (trimPrefix $number (toString .)) | float64) | floor | int64 -}}
{{- end }}

{{/* Resources of a shard: memory filled in, its GPU added. */}}
{{- define "sheepfold.shardResources" -}}
{{- $memory := include "sheepfold.gibibytes" (include "sheepfold.shardMemoryBytes" .) -}}
{{- $given := deepCopy .Values.shards.resources -}}
{{- $requests := default dict $given.requests -}}
{{- $limits := default dict $given.limits -}}
{{- if not $requests.memory }}{{ $_ := set $requests "memory" (default $memory $limits.memory) }}{{ end -}}
{{- if not $limits.memory }}{{ $_ := set $limits "memory" $requests.memory }}{{ end -}}
{{- if .Values.gpu.enabled }}{{ $_ := set $limits .Values.gpu.resourceName (int .Values.gpu.count) }}{{ end -}}
{{- toYaml (merge (dict "requests" $requests "limits" $limits) $given) -}}
{{- end }}

{{- define "sheepfold.shardStorage" -}}
{{- default (include "sheepfold.gibibytes" (include "sheepfold.shardDiskBytes" .)) .Values.shards.storage.size -}}
{{- end }}
