"""Good streams of manifests, and what is put into them that only one check tells."""

from __future__ import annotations

GOOD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: notes}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: notes}}
  template:
    metadata: {labels: {app: notes, tier: web}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 150
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      initContainers:
        - name: edge
          image: nginx:1.28
          restartPolicy: Always
          ports: [{name: public, containerPort: 8443}, {name: internal, containerPort: 9090}]
          startupProbe: {httpGet: {path: /edge, port: internal}}
          resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 64Mi}}
          securityContext: &restricted
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
      containers:
        - name: server
          image: registry.example.com:5000/notes:1.2.0
          envFrom: [{configMapRef: {name: notes}}]
          env:
            - {name: MCP_STATE_URL, valueFrom: {secretKeyRef: {name: notes, key: state}}}
            - {name: MCP_PEER_SECRET_FILE, value: /etc/notes/peers}
            - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
            - {name: MCP_PEER_URL, value: "https://$(POD_IP):9443"}
          readinessProbe: {httpGet: {path: /health/ready, port: 9090}}
          livenessProbe: {httpGet: {path: /health/live, port: 9090}}
          lifecycle: {preStop: {sleep: {seconds: 15}}}
          resources: {requests: {cpu: 0.5, memory: 512M}, limits: {cpu: 1, memory: 1Gi}}
          securityContext: *restricted
          volumeMounts: [{name: secrets, mountPath: /etc/notes}]
      volumes:
        - {name: secrets, secret: {secretName: notes, items: [{key: peers, path: peers}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {MCP_ENVIRONMENT: production, MCP_HOST: "127.0.0.1"}
---
apiVersion: v1
kind: Secret
metadata: {name: notes}
stringData: {state: "redis://:word@redis:6379/0", peers: word}
---
apiVersion: v1
kind: Service
metadata: {name: notes}
spec: {type: LoadBalancer, selector: {app: notes}, ports: [{name: https, port: 443, targetPort: public}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: notes}
spec: {minAvailable: 50%, selector: {matchExpressions: [{key: app, operator: In, values: [notes]}]}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: notes}
spec: {scaleTargetRef: {kind: Deployment, name: notes}, minReplicas: 2, maxReplicas: 4}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: notes}
spec: {podSelector: {matchLabels: {app: notes}}, ingress: [{ports: [{port: 8443}, {port: internal}]}]}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: notes}
spec: {selector: {matchLabels: {app: notes}}, podMetricsEndpoints: [{port: internal}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: notes}
spec:
  rules:
    - matches: [{path: {value: /mcp}}]
      timeouts: {request: 300s, backendRequest: 0s}
      backendRefs: [{name: notes, port: 443}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: notes
  annotations:
    nginx.ingress.kubernetes.io/proxy-read-timeout: "300"
    nginx.ingress.kubernetes.io/proxy-send-timeout: "300"
    alb.ingress.kubernetes.io/target-group-attributes: a=b,deregistration_delay.timeout_seconds=120
spec:
  ingressClassName: nginx
  rules: [{http: {paths: [{path: /mcp, backend: {service: {name: notes, port: {name: https}}}}]}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: probe}
spec:
  schedule: "*/5 0-6,12 * jan-MAR mon,5"
  timeZone: Europe/Berlin
  jobTemplate: {spec: {template: {spec: {containers: [{name: probe, image: "probe@sha256:0"}]}}}}
"""
"""Everything that a check speaks of, in names that are not the template's; it must pass them all."""

MESH = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: notes}
spec:
  selector: {matchLabels: {app: notes}}
  template:
    metadata: {labels: {app: notes}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 150
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: server
          image: notes:1
          env: [{name: MCP_ENVIRONMENT, value: production}]
          ports: [{name: public, containerPort: 8080}]
          readinessProbe: {exec: {command: [python, -m, mcp_chassis.alive, ready]}}
          livenessProbe: {exec: {command: [python, -m, mcp_chassis.alive]}}
          lifecycle: {preStop: {sleep: {seconds: 15}}}
          resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}
          securityContext:
            {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: notes}
spec: {selector: {app: notes}, ports: [{port: 80, targetPort: public}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: notes}
spec:
  rules: [{matches: [{path: {value: /mcp}}], timeouts: {request: 0s}, backendRefs: [{name: notes, port: 80}]}]
"""
"""No edge in the pod: a mesh's proxy hands connections to the server on loopback."""

SABOTEURS: list[tuple[str, str, str]] = [
    # what is in a good stream, what takes its place, the one check that tells
    ("{name: notes}\nspec:\n  replicas", "{name: notes, name: notes}\nspec:\n  replicas", "readable"),
    ("kind: ConfigMap", "kind: [ConfigMap", "readable"),
    ("notes}}\n  template", "note}}\n  template", "workload_selector"),
    ("selector: {app: notes}, ports", "selector: {app: note}, ports", "selectors"),
    ("operator: In, values: [notes]", "operator: In, values: [note]", "selectors"),
    ("{podSelector: {matchLabels: {app: notes}}", "{podSelector: {matchLabels: {app: note}}", "selectors"),
    ("{selector: {matchLabels: {app: notes}}, podM", "{selector: {matchLabels: {app: note}}, podM", "selectors"),
    ("targetPort: public", "targetPort: publik", "service_ports"),
    ("targetPort: public", "targetPort: 8444", "service_ports"),
    ("podMetricsEndpoints: [{port: internal}]", "podMetricsEndpoints: [{port: metrics}]", "service_ports"),
    ("[{port: 8443}, {port: internal}]", "[{port: 8444}]", "policy_ports"),
    ("ingress: [{ports: [{port: 8443}, {port: internal}]}]", "ingress: [{from: []}]", "policy_ports"),
    ("minAvailable: 50%", "minAvailable: 1, maxUnavailable: 1", "disruption_budget"),
    ("minAvailable: 50%", "minAvailable: 2", "disruption_budget"),
    ("minAvailable: 50%", "minAvailable: half", "disruption_budget"),
    ("minAvailable: 50%", "minAvailable: 51%", "disruption_budget"),
    ("minAvailable: 50%", "maxUnavailable: 0", "disruption_budget"),
    (
        "scaleTargetRef: {kind: Deployment, name: notes}",
        "scaleTargetRef: {kind: Deployment, name: note}",
        "scaler_target",
    ),
    ("minReplicas: 2, maxReplicas: 4", "minReplicas: 5, maxReplicas: 4", "scaler_bounds"),
    ("backendRefs: [{name: notes, port: 443}]", "backendRefs: [{name: note, port: 443}]", "backends"),
    ("backendRefs: [{name: notes, port: 443}]", "backendRefs: [{name: notes, port: 8443}]", "backends"),
    ("port: {name: https}", "port: {name: http}", "backends"),
    (
        "type: LoadBalancer, selector: {app: notes}, ports: [{name: https, port: 443, targetPort: public",
        "selector: {app: notes}, ports: [{name: https, port: 443, targetPort: internal",
        "public_route",
    ),
    (
        "{name: https, port: 443, targetPort: public}",
        "{name: https, port: 443, targetPort: public}, {port: 9090}",
        "public_service",
    ),
    (
        "type: LoadBalancer, selector: {app: notes}, ports: [",
        "type: NodePort, selector: {app: notes}, ports: [{port: 9, targetPort: internal}, ",
        "public_service",
    ),
    ("*/5 0-6,12 * jan-MAR mon,5", "*/5 0-6,24 * * *", "cron"),
    ("*/5 0-6,12 * jan-MAR mon,5", "0 0 * *", "cron"),
    ("Europe/Berlin", "Europe/Atlantis", "cron"),
    ("/health/ready, port: 9090", "/health/ready, port: internal", "probe_ports"),
    ("/health/ready, port: 9090", "/health/ready, port: 9091", "probe_ports"),
    ("/health/ready, port: 9090", "/health/ready, port: 8080", "probes_through_edge"),
    ("readinessProbe: {httpGet: {path: /health/ready, port: 9090}}", "tty: false", "probes_set"),
    ("path: /health/ready", "path: /health/live", "probe_paths"),
    ("path: /health/live", "path: /health/ready", "probe_paths"),
    ("path: /health/live", "path: /health", "probe_paths"),
    ("{httpGet: {path: /health/live, port: 9090}}", "{tcpSocket: {port: 9090}}", "probe_paths"),
    ("          restartPolicy: Always\n", "", "sidecar_native"),
    (
        "          restartPolicy: Always\n",
        "          restartPolicy: Always\n          lifecycle: {preStop: {exec: {command: [sleep, '9']}}}\n",
        "pre_stop_sleep",
    ),
    ("{path: /edge, port: internal}", "{path: /health/ready, port: internal}", "sidecar_probe"),
    ("requests: {cpu: 50m, memory: 64Mi}", "requests: {cpu: 50m, memory: 65Mi}", "resources"),
    ("requests: {cpu: 0.5, memory: 512M}", "requests: {memory: 512M}", "resources"),
    ("{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 0, maxUnavailable: 0}", "rolling_update"),
    ("{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 1, maxUnavailable: 100%}", "rolling_update"),
    ("{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 1, maxUnavailable: 2}", "rolling_update"),
    ("{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 1, maxUnavailable: most}", "rolling_update"),
    ("{rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}", "{type: Recreate}", "rolling_update"),
    (
        "{name: MCP_STATE_URL, valueFrom: {secretKeyRef: {name: notes, key: state}}}",
        "{name: A, value: b}",
        "shared_state",
    ),
    ("MCP_PEER_URL", "MY_PEER_URL", "shared_sessions"),
    ("https://$(POD_IP):9443", "https://notes:443", "peer_address"),
    ("https://$(POD_IP):9443", "https://$(NODE):9443", "peer_address"),
    ("valueFrom: {fieldRef: {fieldPath: status.podIP}}", "value: 10.0.0.9", "peer_address"),
    ("volumeMounts: [{name: secrets,", "volumeMounts: [{name: secret,", "volumes"),
    ("{name: notes, key: state}", "{name: notes, key: redis}", "references"),
    ("items: [{key: peers,", "items: [{key: pears,", "references"),
    ('MCP_HOST: "127.0.0.1"', "MCP_HOST: 0.0.0.0", "loopback"),
    ("{MCP_ENVIRONMENT: production,", "{MCP_ENVIRONMENT: production, CRM_TOKEN: abc,", "plain_secrets"),
    ('"https://$(POD_IP):9443"', '"https://me:word@$(POD_IP):9443"', "plain_secrets"),
    ("nginx:1.28", "nginx:latest", "image_tag"),
    (":5000/notes:1.2.0", ":5000/notes", "image_tag"),
    ("runAsNonRoot: true", "runAsNonRoot: false", "non_root"),
    ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "privilege_escalation"),
    ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: false\n            privileged: true", "privileged"),
    ("drop: [ALL]", "drop: [KILL]", "capabilities"),
    ("drop: [ALL]", "drop: [ALL], add: [NET_BIND_SERVICE, SYS_ADMIN]", "capabilities_added"),
    ("runAsNonRoot: true", "runAsNonRoot: true, runAsUser: 0", "root_user"),
    ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: false\n            runAsUser: 0", "root_user"),
    ("      volumes:\n", "      hostPID: true\n      volumes:\n", "host_access"),
    ("      volumes:\n", "      hostIPC: true\n      volumes:\n", "host_access"),
    ("      volumes:\n", "      volumes:\n        - {name: node, hostPath: {path: /}}\n", "host_access"),
    ("containerPort: 8443}", "containerPort: 8443, hostPort: 443}", "host_access"),
    ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read_only_root"),
    ("seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "seccomp"),
    ("      automountServiceAccountToken: false\n", "", "service_account_token"),
    ("      enableServiceLinks: false\n", "", "service_links"),
    ("      enableServiceLinks: false\n", "      enableServiceLinks: false\n      hostNetwork: true\n", "host_network"),
    ("MCP_ENVIRONMENT: production,", "MCP_ENVIRONMENT: production, MCP_DRAIN_TIMEOUT: '60',", "drain_covers_call"),
    ("terminationGracePeriodSeconds: 150", "terminationGracePeriodSeconds: 140", "grace_period"),
    ("terminationGracePeriodSeconds: 150", "terminationGracePeriodSeconds: 145", "grace_period"),
    ("terminationGracePeriodSeconds: 150", "terminationGracePeriodSeconds: 0", "grace_period"),
    ("deregistration_delay.timeout_seconds=120", "deregistration_delay.timeout_seconds=119", "balancer_delay"),
    ("      terminationGracePeriodSeconds: 150\n", "", "grace_period"),
    ("MCP_ENVIRONMENT: production,", "MCP_ENVIRONMENT: production, MCP_DRAIN_TIMEOUT: '135',", "grace_period"),
    ("request: 300s", "request: 120s", "route_timeouts"),
    ("      timeouts: {request: 300s, backendRequest: 0s}\n", "", "route_timeouts"),
    ('proxy-read-timeout: "300"', 'proxy-read-timeout: "60"', "ingress_timeouts"),
    ('    nginx.ingress.kubernetes.io/proxy-send-timeout: "300"\n', "", "ingress_timeouts"),
    ("ingressClassName: nginx", "ingressClassName: alb", "ingress_timeouts"),
]

MESH_SABOTEURS: list[tuple[str, str, str]] = [
    (
        "{exec: {command: [python, -m, mcp_chassis.alive, ready]}}",
        "{httpGet: {path: /health/ready, port: 8080}}",
        "probes_through_edge",
    ),
    ("{value: /mcp}", "{value: /}", "public_route"),
    ("mcp_chassis.alive, ready]", "mcp_chassis.alive, live]", "probe_paths"),
    ("mcp_chassis.alive]", "mcp_chassis.alive, ready]", "probe_paths"),
    ("{name: MCP_ENVIRONMENT, value: production}", "{name: MCP_AUTH, value: 'jwt,mtls'}", "mesh_certificates"),
]
