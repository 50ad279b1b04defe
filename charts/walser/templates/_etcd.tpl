{{/* The configuration file of a member of etcd, without what a replacement needs: (dict "root" $ "index" N). A member that has
its data reads from it only where it listens and what it is called; none leaves the cluster by itself. */}}
{{- define "walser.etcdMember" -}}
{{- $root := .root -}}
{{- $tls := include "walser.tls.etcd" $root -}}
{{- $scheme := $tls | eq "true" | ternary "https" "http" -}}
{{- $name := include "walser.headlessName" (dict "root" $root "component" "etcd") -}}
{{- $domain := include "walser.podDomain" (dict "root" $root "component" "etcd") -}}
{{- $any := include "walser.anyAddress" $root -}}
{{- $members := list -}}
{{- range $index := until (int $root.Values.etcd.replicas) -}}
{{- $members = append $members (printf "%s-%d=%s://%s-%d.%s:2380" $name $index $scheme $name $index $domain) -}}
{{- end -}}
{{- $member := printf "%s-%d.%s" $name .index $domain -}}
name: {{ $name }}-{{ .index }}
data-dir: /var/lib/etcd/data
listen-client-urls: {{ $scheme }}://{{ $any }}:2379
listen-peer-urls: {{ $scheme }}://{{ $any }}:2380
listen-metrics-urls: http://{{ $any }}:2381
advertise-client-urls: {{ $scheme }}://{{ $member }}:2379
initial-advertise-peer-urls: {{ $scheme }}://{{ $member }}:2380
initial-cluster: {{ join "," $members }}
initial-cluster-token: {{ $name }}
auto-compaction-mode: periodic
auto-compaction-retention: 1h
{{- if $tls }}
{{- range list "client" "peer" }}
{{ . }}-transport-security:
  cert-file: /etc/walser/tls/etcd/tls.crt
  key-file: /etc/walser/tls/etcd/tls.key
  trusted-ca-file: /etc/walser/tls/etcd/ca.crt
  client-cert-auth: true
{{- end }}
{{- end }}
{{- with $root.Values.etcd.config }}
{{ toYaml . }}
{{- end }}
{{- end -}}
