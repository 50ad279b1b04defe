{{/* Settings of a component as TOML: (dict "root" $ "component" NAME "own" MAP). Later ones win. */}}
{{- define "walser.settings" -}}
{{- $values := .root.Values -}}
{{- $all := merge (dict) (get $values .component).config $values.config .own (include "walser.commonSettings" .root | fromYaml) -}}
{{- range $key, $value := $all }}
{{ $key | quote }} = {{ if kindIs "float64" $value }}{{ int64 $value | toString | quote }}{{ else }}{{ toString $value | quote }}{{ end }}
{{- end }}
{{- end -}}

{{- define "walser.commonSettings" -}}
admin: {{ printf "%s:7463" (include "walser.anyAddress" .) | quote }}
log.format: json
{{- with .Values.otel.endpoint }}
otel.endpoint: {{ . | quote }}
{{- if $.Values.otel.metrics }}
otel.metrics: "true"
{{- end }}
{{- if $.Values.otel.logs }}
otel.logs: "true"
{{- end }}
{{- end }}
{{- end -}}

{{/* Settings that the chart makes for a component: (dict "root" $ "component" NAME). */}}
{{- define "walser.ownSettings" -}}
{{- $root := .root -}}
{{- $port := has .component (list "standalone" "gateway") | ternary "7460" "7461" -}}
listen: {{ printf "%s:%s" (include "walser.anyAddress" $root) $port | quote }}
{{- if eq .component "standalone" }}
cluster.name: {{ include "walser.clusterName" $root | quote }}
{{- else if eq .component "controller" }}
cluster.name: {{ include "walser.clusterName" $root | quote }}
cluster.replication.factor: {{ $root.Values.cluster.replicationFactor | int | toString | quote }}
cluster.min.insync.replicas: {{ $root.Values.cluster.minInsyncReplicas | int | toString | quote }}
controller.metastore: etcd
controller.etcd.endpoints: {{ include "walser.etcdEndpoints" $root | quote }}
controller.etcd.prefix: {{ $root.Values.etcd.external.prefix | quote }}
{{- else }}
controller.address: {{ include "walser.controllerAddresses" $root | quote }}
{{- end }}
{{- if eq .component "storage" }}
storage.data: /var/lib/walser/data
{{- end }}
{{- with include "walser.tls.settings" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The contents of the ConfigMap of a component. */}}
{{- define "walser.configData" -}}
walser.toml: |
  # Settings of docs/operations.md. Made by the chart: change its values instead.
  {{- $own := include "walser.ownSettings" . | fromYaml }}
  {{- include "walser.settings" (merge (dict "own" $own) .) | trim | nindent 2 }}
{{- end -}}
