{{- /* What selects a component's Pods. It can never change. */}}
{{- define "belfry.labels" -}}
app.kubernetes.io/name: belfry
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- /* The labels of an object: its own, and those that a chart's objects have. */}}
{{- define "belfry.object" -}}
{{- $component := index . 1 }}
{{- with index . 0 }}
app.kubernetes.io/name: belfry
{{- with $component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: belfry
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The labels of a component's Pods: without versions, which would replace the
Pods when nothing of theirs has changed. */}}
{{- define "belfry.pod" -}}
{{- $values := index (index . 0).Values (index . 1) }}
{{- include "belfry.labels" (index . 1) }}
{{- with merge (dict) $values.podLabels (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* One file's objects, with the namespace of the release and labels. */}}
{{- define "belfry.file" -}}
{{- $root := index . 0 }}
{{- range splitList "\n---\n" (index . 1) }}
{{- $object := replace "namespace: belfry-system" (printf "namespace: %s" $root.Release.Namespace) . | fromYaml }}
{{- $labels := include "belfry.object" (list $root "") | fromYaml }}
{{- $_ := set $object.metadata "labels" (mergeOverwrite $labels ($object.metadata.labels | default dict)) }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}

{{- define "belfry.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The arguments that both programs take. */}}
{{- define "belfry.args" -}}
- --log-format={{ .Values.log.format }}
{{- if ne .Values.log.level "info" }}
- --log-level={{ .Values.log.level }}
{{- end }}
{{- with .Values.loadBalancerClass }}
- --lb-class={{ . }}
{{- end }}
{{- with .Values.drainTaint }}
- --drain-taint={{ . }}
{{- end }}
{{- if .Values.ignoreExcludeLB }}
- --ignore-exclude-lb
{{- end }}
{{- if and .Values.metrics.secure .Values.metrics.certificateSecret }}
- --metrics-cert=/etc/belfry/metrics/tls.crt
- --metrics-key=/etc/belfry/metrics/tls.key
{{- end }}
{{- end }}

{{- /* How often and how an endpoint of a monitor is scraped. */}}
{{- define "belfry.scrape" -}}
{{- $set := dict }}
{{- range $key := list "interval" "scrapeTimeout" "relabelings" "metricRelabelings" }}
{{- with index $ $key }}{{ $_ := set $set $key . }}{{ end }}
{{- end }}
{{- with $set }}{{ toYaml . }}{{ end }}
{{- end }}
