{{/* The part of a pod that places and secures it: (dict "root" $ "component" NAME "values" MAP). */}}
{{- define "walser.podBasics" -}}
{{- $values := .values -}}
{{- $selector := include "walser.selectorLabels" . | fromYaml -}}
serviceAccountName: {{ include "walser.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
{{- with $values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $spread := $values.podAntiAffinity }}
{{- $term := dict "topologyKey" $spread.topologyKey "labelSelector" (dict "matchLabels" $selector) }}
{{- if $values.affinity }}
affinity: {{- toYaml $values.affinity | nindent 2 }}
{{- else if eq $spread.type "hard" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution: {{- toYaml (list $term) | nindent 6 }}
{{- else if eq $spread.type "soft" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution: {{- toYaml (list (dict "weight" 100 "podAffinityTerm" $term)) | nindent 6 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml (merge (dict) . (dict "labelSelector" (dict "matchLabels" $selector))) | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod: (dict "root" $ "component" NAME "values" MAP "checksum" TEXT). */}}
{{- define "walser.podMetadata" -}}
labels:
  {{- include "walser.selectorLabels" . | nindent 2 }}
  {{- with merge (dict) .values.podLabels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ .checksum | sha256sum }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Probes of a main container: (dict "values" MAP "port" NAME "startup" PATH). */}}
{{- define "walser.probes" -}}
{{- range $name, $path := dict "startupProbe" "/livez" "livenessProbe" "/livez" "readinessProbe" "/readyz" }}
{{ $name }}:
  httpGet: {path: {{ $path }}, port: {{ $.port }}}
  {{- toYaml (get $.values $name) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The template of the pods of a component: (dict "root" $ "component" NAME "command" NAME). */}}
{{- define "walser.podTemplate" -}}
{{- $root := .root -}}
{{- $values := include "walser.component" . | fromYaml -}}
{{- $context := merge (dict "values" $values "checksum" (include "walser.configData" .)) . -}}
{{- $public := has .component (list "standalone" "gateway") -}}
metadata:
  {{- include "walser.podMetadata" $context | nindent 2 }}
spec:
  {{- include "walser.podBasics" $context | nindent 2 }}
  {{- with $values.initContainers }}
  initContainers: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: walser
      image: {{ include "walser.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - {{ .command }}
        - --config=/etc/walser/walser.toml
        {{- if eq .component "standalone" }}
        - --data=/var/lib/walser/data
        {{- end }}
        - {{ include "walser.tls.on" $root | eq "true" | ternary "--insecure-admin" "--insecure" }}
        {{- with $values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        {{- if and $public (include "walser.tls.on" $root) }}
        # For commands that are run in this container.
        {{- include "walser.trustEnv" $root | nindent 8 }}
        {{- end }}
        {{- if eq .component "storage" }}
        - {name: WALSER_STORAGE_NODE_ID, valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}}
        - {name: WALSER_STORAGE_ADVERTISE, value: {{ printf "%s:7461" (include "walser.ownAddress" $root) | quote }}}
        {{- else if eq .component "coordinator" }}
        - {name: WALSER_COORDINATOR_ADVERTISE, value: {{ printf "%s:7461" (include "walser.ownAddress" $root) | quote }}}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.extraEnvFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- if $public }}
        - {name: grpc, containerPort: 7460}
        {{- else }}
        - {name: internal, containerPort: 7461}
        {{- end }}
        - {name: admin, containerPort: 7463}
      {{- include "walser.probes" (dict "values" $values "port" "admin") | trim | nindent 6 }}
      {{- with int $values.preStopSleepSeconds }}
      lifecycle: {preStop: {sleep: {seconds: {{ . }}}}}
      {{- end }}
      {{- with $values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.securityContext }}
      securityContext: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/walser/walser.toml, subPath: walser.toml, readOnly: true}
        {{- if $values.persistence }}
        - {name: data, mountPath: /var/lib/walser}
        {{- end }}
        {{- with include "walser.tls.mounts" . }}
        {{- trim . | nindent 8 }}
        {{- end }}
        {{- if include "walser.hasEtcdPassword" . }}
        - {name: etcd-password, mountPath: /etc/walser/etcd-password, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "walser.headlessName" . }}}
    {{- if and $values.persistence (not $values.persistence.enabled) }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- with include "walser.tls.volumes" . }}
    {{- trim . | nindent 4 }}
    {{- end }}
    {{- if include "walser.hasEtcdPassword" . }}
    - {name: etcd-password, secret: {secretName: {{ $root.Values.etcd.external.passwordSecret }}, defaultMode: 0440}}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "walser.hasEtcdPassword" -}}
{{- $external := .root.Values.etcd.external -}}
{{- if and (eq .component "controller") $external.endpoints $external.user }}true{{ end -}}
{{- end -}}

{{/* What becomes of volumes: (dict "root" $ "persistence" MAP). No label or annotation of the release: they could not be changed. */}}
{{- define "walser.claims" -}}
{{- with .persistence }}
{{- if .enabled -}}
persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
volumeClaimTemplates:
  - metadata:
      name: data
      {{- with .annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      accessModes: {{ toJson .accessModes }}
      {{- if .storageClass }}
      storageClassName: {{ .storageClass | eq "-" | ternary "" .storageClass | quote }}
      {{- end }}
      resources: {requests: {storage: {{ .size }}}}
{{- end }}
{{- end }}
{{- end -}}
