{{- define "belfry.labels" -}}
app.kubernetes.io/name: belfry
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "belfry.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
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
