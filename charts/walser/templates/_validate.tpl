{{/* What a schema cannot say. */}}
{{- define "walser.validate" -}}
{{- $values := .Values -}}
{{- $tls := $values.tls -}}
{{- if eq $values.mode "cluster" -}}
{{- if lt (int $values.storage.replicas) (int $values.cluster.replicationFactor) -}}
{{- fail (printf "cluster.replicationFactor %d needs as many storage nodes; storage.replicas is %d" (int $values.cluster.replicationFactor) (int $values.storage.replicas)) -}}
{{- end -}}
{{- if gt (int $values.cluster.minInsyncReplicas) (int $values.cluster.replicationFactor) -}}
{{- fail (printf "cluster.minInsyncReplicas %d is more than cluster.replicationFactor %d: no record could be acknowledged" (int $values.cluster.minInsyncReplicas) (int $values.cluster.replicationFactor)) -}}
{{- end -}}
{{- $kept := and $values.storage.persistence.enabled (or (not (include "walser.ownEtcd" .)) $values.etcd.persistence.enabled) -}}
{{- if not (or $kept $values.iUnderstandDataIsLost) -}}
{{- fail "persistence.enabled: false in mode cluster loses data with each pod that moves; set iUnderstandDataIsLost: true to have that" -}}
{{- end -}}
{{- $member := toString $values.etcd.replaceMember -}}
{{- if and (ne $member "") (or (not (include "walser.ownEtcd" .)) (ge (int $member) (int $values.etcd.replicas))) -}}
{{- fail (printf "etcd.replaceMember %s: there is no such member" $member) -}}
{{- end -}}
{{- range $values.etcd.external.endpoints -}}
{{- if and (hasPrefix "https://" .) (not $values.etcd.external.existingSecret) -}}
{{- fail (printf "etcd.external.endpoints has %s: https needs etcd.external.existingSecret with ca.crt" .) -}}
{{- end -}}
{{- end -}}
{{- if ne (empty $values.etcd.external.user) (empty $values.etcd.external.passwordSecret) -}}
{{- fail "etcd.external.user and etcd.external.passwordSecret go together" -}}
{{- end -}}
{{- end -}}
{{- if eq (include "walser.tls.mode" .) "existing" -}}
{{- if not $tls.existing.public -}}
{{- fail "tls.mode: existing needs tls.existing.public" -}}
{{- end -}}
{{- if eq $values.mode "cluster" -}}
{{- range $role, $secret := $tls.existing.internal -}}
{{- if not $secret -}}
{{- fail (printf "tls.mode: existing needs tls.existing.internal.%s in mode cluster" $role) -}}
{{- end -}}
{{- end -}}
{{- if ne (empty $tls.existing.etcd.member) (empty $tls.existing.etcd.client) -}}
{{- fail "tls.existing.etcd.member and tls.existing.etcd.client go together" -}}
{{- end -}}
{{- if and (include "walser.ownEtcd" .) (not $tls.existing.etcd.member) (not $tls.existing.etcd.plaintext) -}}
{{- fail "tls.mode: existing needs tls.existing.etcd.member and tls.existing.etcd.client, or tls.existing.etcd.plaintext: true: the metadata would be open to whoever reaches etcd" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $tls.clientCertificates.authoritySecret (not $tls.clientCertificates.jobSecret) (include "walser.tls.on" .) -}}
{{- fail "tls.clientCertificates.authoritySecret needs tls.clientCertificates.jobSecret: jobs and tests of the chart are clients, too" -}}
{{- end -}}
{{- range $index, $topic := $values.topics -}}
{{- range $topic.unset -}}
{{- if hasKey (default dict $topic.config) . -}}
{{- fail (printf "topics: %s both sets and unsets %s" $topic.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
