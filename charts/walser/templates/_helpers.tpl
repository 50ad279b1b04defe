{{/* Names, labels, images and addresses. */}}

{{- define "walser.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods are selected: (dict "root" $ "component" NAME). They never change. */}}
{{- define "walser.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of an object: (dict "root" $ "component" NAME "annotations" MAP "labels" MAP). */}}
{{- define "walser.metadata" -}}
{{- $root := .root -}}
labels:
  {{- include "walser.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/part-of: walser
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
  {{- with merge (dict) (default dict .labels) $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "walser.image" -}}
{{- $image := .Values.image -}}
{{- $name := $image.repository -}}
{{- if $image.registry }}{{ $name = printf "%s/%s" $image.registry $name }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion $image.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "walser.etcdImage" -}}
{{- $image := .Values.etcd.image -}}
{{- if $image.registry }}{{ $image.registry }}/{{ end }}{{ $image.repository }}:{{ $image.tag }}
{{- end -}}

{{- define "walser.clusterName" -}}
{{- default (include "walser.fullname" .) .Values.cluster.name -}}
{{- end -}}

{{- define "walser.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "walser.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Name of the Service of a component that gives its pods names of their own. */}}
{{- define "walser.headlessName" -}}
{{- $suffix := eq .component "standalone" | ternary "headless" .component -}}
{{- printf "%s-%s" (include "walser.fullname" .root) $suffix -}}
{{- end -}}

{{/* Domain of the pods of a component. */}}
{{- define "walser.podDomain" -}}
{{- printf "%s.%s.svc.%s" (include "walser.headlessName" .) .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{/* Where clients in the same cluster reach Walser. */}}
{{- define "walser.publicHost" -}}
{{- printf "%s.%s.svc" (include "walser.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "walser.publicAddress" -}}
{{- printf "%s:%v" (include "walser.publicHost" .) .Values.service.port -}}
{{- end -}}

{{/* Every address in one listener. */}}
{{- define "walser.anyAddress" -}}
{{- eq .Values.ipFamily "IPv6" | ternary "[::]" "0.0.0.0" -}}
{{- end -}}

{{/* HOST of the pod itself, in an environment variable. */}}
{{- define "walser.ownAddress" -}}
{{- eq .Values.ipFamily "IPv6" | ternary "[$(POD_IP)]" "$(POD_IP)" -}}
{{- end -}}

{{/* controller.address: every controller by its name. */}}
{{- define "walser.controllerAddresses" -}}
{{- $domain := include "walser.podDomain" (dict "root" . "component" "controller") -}}
{{- $addresses := list -}}
{{- range $index := until (int .Values.controller.replicas) -}}
{{- $addresses = append $addresses (printf "%s-controller-%d.%s:7461" (include "walser.fullname" $) $index $domain) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end -}}

{{/* Whether etcd is installed: "true" or nothing. */}}
{{- define "walser.ownEtcd" -}}
{{- if and (eq .Values.mode "cluster") (not .Values.etcd.external.endpoints) }}true{{ end -}}
{{- end -}}

{{- define "walser.etcdEndpoints" -}}
{{- if .Values.etcd.external.endpoints -}}
{{- join "," .Values.etcd.external.endpoints -}}
{{- else -}}
{{- $domain := include "walser.podDomain" (dict "root" . "component" "etcd") -}}
{{- $scheme := include "walser.tls.etcd" . | eq "true" | ternary "https" "http" -}}
{{- $endpoints := list -}}
{{- range $index := until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s://%s-etcd-%d.%s:2379" $scheme (include "walser.fullname" $) $index $domain) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- end -}}
{{- end -}}

{{/* The values of a component on top of podDefaults, as YAML: (dict "root" $ "component" NAME). */}}
{{- define "walser.component" -}}
{{- mergeOverwrite (deepCopy .root.Values.podDefaults) (deepCopy (get .root.Values .component)) | toYaml -}}
{{- end -}}
