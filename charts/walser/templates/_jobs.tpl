{{/* Jobs of hooks, and the pod of the test. */}}

{{/* Annotations of a hook: (dict "hook" NAMES "weight" N). Argo CD maps pre-install and pre-upgrade to PreSync, and
post-install and post-upgrade to PostSync: each runs at the first install, too. */}}
{{- define "walser.hook" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: {{ default "before-hook-creation,hook-succeeded" .delete }}
{{- end -}}

{{/* What is the same in the pods of jobs: (dict "root" $ "component" NAME). */}}
{{- define "walser.jobPod" -}}
{{- $defaults := .root.Values.podDefaults -}}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $defaults.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $defaults.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $defaults.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $defaults.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $defaults.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Labels of a job's pod. */}}
{{- define "walser.jobLabels" -}}
labels:
  {{- include "walser.selectorLabels" . | nindent 2 }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A container that runs one command of walser as a client: (dict "root" $ "name" NAME "args" LIST "resources" MAP "client" BOOL). */}}
{{- define "walser.command" -}}
- name: {{ .name }}
  image: {{ include "walser.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: {{- toYaml .args | nindent 4 }}
  {{- if .client }}
  env: {{- include "walser.clientEnv" .root | nindent 4 }}
  {{- end }}
  {{- with .envFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.podDefaults.securityContext }}
  securityContext: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .client }}
  {{- with include "walser.tls.mounts" (dict "root" .root "component" "job") }}
  volumeMounts: {{- trim . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* The volumes of a job of clients. */}}
{{- define "walser.jobVolumes" -}}
{{- with include "walser.tls.volumes" (dict "root" . "component" "job") }}
volumes: {{- trim . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What must not change while there is a release, as YAML: what it is, and what it could be. */}}
{{- define "walser.fixed" -}}
MODE: {name: mode, is: {{ .Values.mode }}, of: [standalone, cluster]}
TLS: {name: TLS, is: {{ include "walser.tls.on" . | eq "true" | ternary "given" "none" }}, of: [given, none]}
{{- if eq .Values.mode "cluster" }}
ETCD: {name: the number of members of etcd, is: {{ include "walser.ownEtcd" . | eq "true" | ternary (int .Values.etcd.replicas | toString) "external" | quote }}, of: ["1", "3", "5", external]}
{{- end }}
{{- end -}}
