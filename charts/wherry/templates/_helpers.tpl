{{- /* The names of the release's objects. */ -}}
{{- define "wherry.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wherry.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "wherry.labels" -}}
{{ include "wherry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "wherry.image" -}}
{{- $repository := required "image.repository is empty: push the image that `make image` builds to your registry and name it, --set image.repository=REGISTRY/wherry-node" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "wherry.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "wherry.name" .) -}}
{{- end -}}

{{- /* The names of the enabled engines, separated by commas, in alphabetical order. */ -}}
{{- define "wherry.engines" -}}
{{- $names := list -}}
{{- range $name, $engine := .Values.engines -}}
{{- if $engine.enabled -}}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- if not (without $names "wherry") -}}{{- fail "no engine is enabled: set engines.NAME.enabled" -}}{{- end -}}
{{- $names | sortAlpha | join "," -}}
{{- end -}}

{{- /* A token of the service account and the cluster's authority, as every pod would have them, for one container alone. */ -}}
{{- define "wherry.credentials" -}}
name: credentials
projected:
  defaultMode: 0400
  sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3600
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
{{- end -}}
