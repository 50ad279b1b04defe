{{/* TLS: which Secrets there are, where they are mounted, and the settings that name their files. */}}

{{- define "walser.tls.mode" -}}
{{- $mode := toString .Values.tls.mode -}}
{{- if eq $mode "false" }}off{{ else }}{{ $mode }}{{ end -}}
{{- end -}}

{{/* "true" or nothing. */}}
{{- define "walser.tls.on" -}}
{{- if ne (include "walser.tls.mode" .) "off" }}true{{ end -}}
{{- end -}}

{{/* Whether the own etcd has TLS. */}}
{{- define "walser.tls.etcd" -}}
{{- $mode := include "walser.tls.mode" . -}}
{{- if and (include "walser.ownEtcd" .) (or (eq $mode "self-signed") (and (eq $mode "existing") .Values.tls.existing.etcd.member)) }}true{{ end -}}
{{- end -}}

{{- define "walser.tls.role" -}}
{{- get (dict "controller" "controller" "storage" "storage-node" "gateway" "gateway" "coordinator" "group-coordinator") . -}}
{{- end -}}

{{/* Secrets of a component by what they are for, as YAML: (dict "root" $ "component" NAME). */}}
{{- define "walser.tls.secrets" -}}
{{- $root := .root -}}
{{- $tls := $root.Values.tls -}}
{{- $own := eq (include "walser.tls.mode" $root) "self-signed" -}}
{{- $prefix := include "walser.fullname" $root -}}
{{- if include "walser.tls.on" $root -}}
{{- if has .component (list "standalone" "gateway" "job") }}
public: {{ $own | ternary (printf "%s-tls" $prefix) $tls.existing.public }}
{{- end }}
{{- $role := include "walser.tls.role" .component }}
{{- if $role }}
internal: {{ $own | ternary (printf "%s-internal-tls-%s" $prefix $role) (get $tls.existing.internal (camelcase (replace "-" "_" $role) | untitle)) }}
{{- end }}
{{- with $tls.clientCertificates.authoritySecret }}
{{- if has $.component (list "standalone" "gateway") }}
clients: {{ . }}
{{- end }}
{{- end }}
{{- with $tls.clientCertificates.jobSecret }}
{{- if has $.component (list "job" "standalone" "gateway") }}
job: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "walser.tls.etcd" $root }}
{{- if eq .component "etcd" }}
etcd: {{ $own | ternary (printf "%s-etcd-tls" $prefix) $tls.existing.etcd.member }}
{{- else if eq .component "controller" }}
etcd: {{ $own | ternary (printf "%s-etcd-client-tls" $prefix) $tls.existing.etcd.client }}
{{- end }}
{{- else if and (eq .component "controller") $root.Values.etcd.external.endpoints $root.Values.etcd.external.existingSecret }}
etcd: {{ $root.Values.etcd.external.existingSecret }}
{{- end }}
{{- end -}}

{{- define "walser.tls.volumes" -}}
{{- range $purpose, $secret := include "walser.tls.secrets" . | fromYaml }}
- name: tls-{{ $purpose }}
  secret: {secretName: {{ $secret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "walser.tls.mounts" -}}
{{- range $purpose, $secret := include "walser.tls.secrets" . | fromYaml }}
- {name: tls-{{ $purpose }}, mountPath: /etc/walser/tls/{{ $purpose }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Settings of a process. */}}
{{- define "walser.tls.settings" -}}
{{- $root := .root -}}
{{- $secrets := include "walser.tls.secrets" . | fromYaml -}}
{{- if $secrets.public }}
tls.cert.file: /etc/walser/tls/public/tls.crt
tls.key.file: /etc/walser/tls/public/tls.key
{{- end }}
{{- if $secrets.clients }}
tls.client.ca.file: /etc/walser/tls/clients/ca.crt
{{- end }}
{{- if $secrets.internal }}
internal.tls.cert.file: /etc/walser/tls/internal/tls.crt
internal.tls.key.file: /etc/walser/tls/internal/tls.key
internal.tls.ca.file: /etc/walser/tls/internal/ca.crt
{{- end }}
{{- if include "walser.tls.on" $root }}
tls.reload.interval.ms: {{ mul $root.Values.tls.reloadSeconds 1000 | toString | quote }}
{{- end }}
{{- $external := $root.Values.etcd.external -}}
{{- if and (eq .component "controller") $secrets.etcd }}
controller.etcd.ca.file: /etc/walser/tls/etcd/ca.crt
{{- if or (not $external.endpoints) $external.clientCertificate }}
controller.etcd.cert.file: /etc/walser/tls/etcd/tls.crt
controller.etcd.key.file: /etc/walser/tls/etcd/tls.key
{{- end }}
{{- end }}
{{- if and (eq .component "controller") $external.endpoints $external.user }}
controller.etcd.user: {{ $external.user | quote }}
controller.etcd.password.file: /etc/walser/etcd-password/password
{{- end }}
{{- end -}}

{{/* Environment of a client in a job. */}}
{{- define "walser.clientEnv" -}}
- {name: WALSER_SERVER, value: {{ include "walser.publicAddress" . | quote }}}
{{- if include "walser.tls.on" . }}
{{ include "walser.trustEnv" . }}
{{- end }}
{{- end -}}

{{/* By what a client knows the public port, and is known there. */}}
{{- define "walser.trustEnv" -}}
{{- if and (eq (include "walser.tls.mode" .) "existing") .Values.tls.existing.systemTrust -}}
- {name: WALSER_TLS, value: "true"}
{{- else -}}
- {name: WALSER_TLS_CA, value: /etc/walser/tls/public/ca.crt}
{{- end }}
{{- if eq (include "walser.tls.mode" .) "existing" }}
- {name: WALSER_TLS_SERVER_NAME, value: {{ default (include "walser.publicHost" .) .Values.tls.serverName | quote }}}
{{- end }}
{{- if .Values.tls.clientCertificates.jobSecret }}
- {name: WALSER_TLS_CERT, value: /etc/walser/tls/job/tls.crt}
- {name: WALSER_TLS_KEY, value: /etc/walser/tls/job/tls.key}
{{- end }}
{{- end -}}
