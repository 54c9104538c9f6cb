package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/loader"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

const (
	manifests = "../../manifests"
	chart     = manifests + "/helm/belfry"
)

type object = map[string]any

// parse returns the objects of a text by kind and name.
func parse(t *testing.T, text string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if len(o) == 0 {
			continue
		}
		meta := o["metadata"].(object)
		name := fmt.Sprintf("%s %s", o["kind"], meta["name"])
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = o
	}
	return all
}

func rendered(t *testing.T, dir string) map[string]object {
	t.Helper()
	text, err := kustomize(filepath.Join(manifests, dir))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

var releaseLabels = []string{
	"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "app.kubernetes.io/part-of", "helm.sh/chart",
}

func charted(t *testing.T, values string) map[string]object {
	t.Helper()
	text, err := helm(chart, toValues(t, values))
	if err != nil {
		t.Fatal(err)
	}
	all := parse(t, text)
	for name, o := range all {
		// What tells a release's objects apart is of Helm, and no difference.
		labels, _ := o["metadata"].(object)["labels"].(object)
		for _, key := range releaseLabels {
			if labels[key] == nil {
				t.Errorf("%s has no label %s", name, key)
			}
			delete(labels, key)
		}
		if len(labels) == 1 && strings.HasPrefix(name, "CustomResourceDefinition ") {
			delete(o["metadata"].(object), "labels")
		}
		if strings.HasPrefix(name, "CustomResourceDefinition ") {
			annotations := o["metadata"].(object)["annotations"].(object)
			if annotations["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s would be deleted with the release, and every object of its kind with it", name)
			}
			delete(annotations, "helm.sh/resource-policy")
		}
	}
	return all
}

func toValues(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// same reports how two installations differ.
func same(t *testing.T, what string, kustomized, helmed map[string]object) {
	t.Helper()
	kustomized = maps.Clone(kustomized)
	delete(kustomized, "Namespace belfry-system") // Helm's user makes it
	for name := range kustomized {
		if helmed[name] == nil {
			t.Errorf("%s: the chart has no %s", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(helmed)) {
		a, b := kustomized[name], helmed[name]
		if a == nil {
			t.Errorf("%s: kustomize has no %s", what, name)
		} else if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %s differs:\n%s", what, name, difference("", a, b))
		}
	}
}

func difference(path string, a, b any) string {
	if x, ok := a.(object); ok {
		if y, ok := b.(object); ok {
			var out string
			keys := maps.Clone(x)
			maps.Copy(keys, y)
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				out += difference(path+"."+k, x[k], y[k])
			}
			return out
		}
	}
	if reflect.DeepEqual(a, b) {
		return ""
	}
	kustomized, _ := json.Marshal(a)
	helmed, _ := json.Marshal(b)
	return fmt.Sprintf("  %s\n    kustomize %s\n    chart     %s\n", path, kustomized, helmed)
}

func TestTheChartInstallsWhatKustomizeInstalls(t *testing.T) {
	both := rendered(t, "overlays/both")
	if len(both) < 15 {
		t.Fatalf("only %d objects: %v", len(both), slices.Sorted(maps.Keys(both)))
	}
	same(t, "defaults", both, charted(t, ""))
	same(t, "bgp", rendered(t, "overlays/bgp"), charted(t, "speaker: {rawSockets: false}"))
	if reflect.DeepEqual(charted(t, ""), charted(t, "speaker: {rawSockets: false}")) {
		t.Error("a value changes nothing: the test sees nothing")
	}
}

// with renders the overlay "both" with components.
func with(t *testing.T, components ...string) map[string]object {
	t.Helper()
	text := "components:\n"
	for _, c := range components {
		text += "- ../../components/" + c + "\n"
	}
	return over(t, text)
}

// over renders the overlay "both" with what a kustomization adds.
func over(t *testing.T, more string) map[string]object {
	t.Helper()
	// Kustomize wants relative paths, below which is the same place as above.
	dir, err := os.MkdirTemp(filepath.Join(manifests, "overlays"), "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../both]\n" + more
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return rendered(t, filepath.Join("overlays", filepath.Base(dir)))
}

// Of what a second installation shares with the first, "namespace:" changes the
// bindings of their rights, whose change the API server refuses, and nothing else.
func TestASecondInstallationWouldTakeOnlyWhatIsRefused(t *testing.T) {
	first, second := rendered(t, "overlays/both"), over(t, "namespace: belfry-second\n")
	var taken []string
	for name, o := range first {
		if o["metadata"].(object)["namespace"] == nil && second[name] != nil && !reflect.DeepEqual(o, second[name]) {
			taken = append(taken, name)
		}
	}
	var refused []string
	spec := first["ValidatingAdmissionPolicy belfry-installation"]["spec"].(object)
	for _, rule := range spec["matchConstraints"].(object)["resourceRules"].([]any) {
		for _, name := range rule.(object)["resourceNames"].([]any) {
			refused = append(refused, "ClusterRoleBinding "+name.(string))
		}
	}
	slices.Sort(taken)
	slices.Sort(refused)
	if !slices.Equal(taken, refused) {
		t.Errorf("it takes %v, and is refused %v", taken, refused)
	}
}

func TestEachOptionOfKustomizeIsAValueOfTheChart(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(manifests, "components"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"alerts":           "metrics: {prometheusRule: {enabled: true}}",
		"class":            "loadBalancerClass: belfry.dev/lb",
		"dashboards":       "metrics: {dashboards: {enabled: true}}",
		"drain-taint":      "drainTaint: node.kubernetes.io/unschedulable",
		"monitoring":       "metrics: {serviceMonitor: {enabled: true}}",
		"network-policies": "networkPolicy: {enabled: true}",
		"openshift":        "openshift: {enabled: true}",
		"pod-monitoring":   "metrics: {podMonitor: {enabled: true}}",
		"ping":             "speaker: {ping: {addresses: [203.0.113.0/24, '2001:db8:5::/64']}}",
		"priority-class":   "{controller: {priorityClassName: belfry}, speaker: {priorityClassName: belfry}}",
	}
	plain := rendered(t, "overlays/both")
	var all []string
	for _, e := range entries {
		name := e.Name()
		all = append(all, name)
		t.Run(name, func(t *testing.T) {
			if values[name] == "" {
				t.Fatal("no value of the chart stands for it")
			}
			one := with(t, name)
			if reflect.DeepEqual(one, plain) {
				t.Error("it changes nothing")
			}
			delete(one, "PriorityClass belfry") // Helm's user has one, or makes it
			helmed := charted(t, values[name])
			// Kustomize puts an argument last; the order is of no meaning.
			for _, installation := range []map[string]object{one, helmed} {
				for _, o := range installation {
					sortArgs(o)
				}
			}
			same(t, name, one, helmed)
		})
	}
	if len(all) != len(values) {
		t.Errorf("there are components %v", all)
	}
	// They go together, but for the two that would scrape the same.
	with(t, slices.DeleteFunc(all, func(name string) bool { return name == "pod-monitoring" })...)
}

// The init container that has nodes answer ping changes the node's network, and has no other
// power. The speaker beside it has none more for that.
func TestThePingRuleHasOnePowerMoreAndEnds(t *testing.T) {
	spec := func(of map[string]object) object {
		return of["DaemonSet belfry-speaker"]["spec"].(object)["template"].(object)["spec"].(object)
	}
	plain, ping := spec(rendered(t, "overlays/both")), spec(with(t, "ping"))
	inits, _ := ping["initContainers"].([]any)
	if len(inits) != 1 {
		t.Fatalf("init containers: %v", inits)
	}
	rule := inits[0].(object)
	want := object{
		"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities": object{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}},
	}
	if got := rule["securityContext"]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("its powers are %v, want %v", got, want)
	}
	for _, key := range []string{"ports", "restartPolicy", "volumeMounts", "env"} {
		if rule[key] != nil {
			t.Errorf("it has %s: %v", key, rule[key])
		}
	}
	delete(ping, "initContainers")
	if !reflect.DeepEqual(ping, plain) {
		t.Errorf("beside the init container is\n%v\nwant\n%v", ping, plain)
	}
}

// The Prometheus operator's own types know every field of the monitors, and those
// find the port and the token that they name.
func TestMonitorsAreWhatThePrometheusOperatorReads(t *testing.T) {
	strict := func(o object, into any) {
		t.Helper()
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Errorf("%v in:\n%s", err, text)
		}
	}
	workloads := map[string]string{"controller": "Deployment belfry-controller", "speaker": "DaemonSet belfry-speaker"}
	services, pods := with(t, "monitoring"), with(t, "pod-monitoring")
	for component, workload := range workloads {
		var ofServices monitoringv1.ServiceMonitor
		strict(services["ServiceMonitor belfry-"+component], &ofServices)
		var ofPods monitoringv1.PodMonitor
		strict(pods["PodMonitor belfry-"+component], &ofPods)
		if len(ofServices.Spec.Endpoints) != 1 || len(ofPods.Spec.PodMetricsEndpoints) != 1 {
			t.Fatalf("%s: %+v, %+v", component, ofServices.Spec, ofPods.Spec)
		}
		e := ofPods.Spec.PodMetricsEndpoints[0]
		text, _ := json.Marshal(pods[workload])
		if e.Port == nil || !strings.Contains(string(text), `"name":"`+*e.Port+`"`) {
			t.Errorf("%s has no port %v", workload, e.Port)
		}
		labels, _ := json.Marshal(ofPods.Spec.Selector.MatchLabels)
		if !strings.Contains(string(text), `"labels":`+string(labels)) {
			t.Errorf("%s has not the labels %s", workload, labels)
		}
		c := e.Authorization.Credentials
		secret, found := pods["Secret "+c.Name]
		if !found || secret["type"] != "kubernetes.io/service-account-token" || c.Key != "token" {
			t.Errorf("the token of %s is %v in %v", workload, c, secret)
		}
	}
	var rule monitoringv1.PrometheusRule
	strict(with(t, "alerts")["PrometheusRule belfry"], &rule)
	if len(rule.Spec.Groups) == 0 {
		t.Error("the PrometheusRule has no groups")
	}
	binding, _ := json.Marshal(pods["ClusterRoleBinding belfry-metrics-reader"]["subjects"])
	if want := `[{"kind":"ServiceAccount","name":"belfry-metrics","namespace":"belfry-system"}]`; string(binding) != want {
		t.Errorf("the token's account may not read: %s", binding)
	}
	unknown := maps.Clone(pods["PodMonitor belfry-speaker"])
	unknown["spec"] = object{"podMetricsEndpoints": []any{object{"bearerTokenFile": "x"}}}
	text, _ := yaml.Marshal(unknown)
	if yaml.UnmarshalStrict(text, &monitoringv1.PodMonitor{}) == nil {
		t.Error("an unknown field is accepted: the test sees nothing")
	}
}

func sortArgs(v any) {
	switch v := v.(type) {
	case object:
		if args, ok := v["args"].([]any); ok {
			slices.SortFunc(args, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		}
		for _, x := range v {
			sortArgs(x)
		}
	case []any:
		for _, x := range v {
			sortArgs(x)
		}
	}
}

func TestValuesThatAreWrongAreRefused(t *testing.T) {
	for _, c := range []struct{ values, says string }{
		{"controler: {}", "controler"},
		{"controller: {replicas: 0}", "replicas"},
		{"controller: {replicas: two}", "replicas"},
		{"controller: {extraArgs: [replicas]}", "extraArgs"},
		{"image: {tag: 'v1:2'}", "tag"},
		{"image: {repository: ''}", "repository"},
		{"image: {pullPolicy: Sometimes}", "pullPolicy"},
		{"image: {pullSecrets: [registry]}", "pullSecrets"},
		{"log: {level: loud}", "level"},
		{"log: {format: xml}", "format"},
		{"loadBalancerClass: 'a b'", "loadBalancerClass"},
		{"drainTaint: 'key=value:NoSchedule'", "drainTaint"},
		{"speaker: {resources: {request: {cpu: 1}}}", "request"},
		{"speaker: {rawSockets: maybe}", "rawSockets"},
		{"metrics: {serviceMonitor: {enabled: true}, secure: false}", "metrics.secure"},
		{"metrics: {podMonitor: {enabled: true}, secure: false}", "metrics.secure"},
		{"metrics: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}", "twice"},
		{"metrics: {podMonitor: {serviceAccount: {name: x}}}", "serviceAccount"},
		{"metrics: {certificateSecret: UPPER}", "certificateSecret"},
		{"networkPolicy: true", "networkPolicy"},
		{"openshift: true", "openshift"},
		{"networkPolicy: {apiServerPorts: []}", "apiServerPorts"},
		{"networkPolicy: {apiServerPorts: [0]}", "apiServerPorts"},
		{"image: {digest: 'md5:1'}", "digest"},
		{"commonLabels: {app.kubernetes.io/name: x}", "commonLabels"},
		{"speaker: {podLabels: {app.kubernetes.io/component: x}}", "podLabels"},
		{"speaker: {terminationGracePeriodSeconds: 5}", "terminationGracePeriodSeconds"},
		{"metrics: {podMonitor: {interval: often}}", "interval"},
		{"extraObjects: {}", "extraObjects"},
	} {
		if _, err := helm(chart, toValues(t, c.values)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want an error about %s", c.values, err, c.says)
		}
	}
}

// Every value does something: each that the schema describes is tried.
func TestEveryValueChangesSomething(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	monitor := "metrics: {serviceMonitor: {enabled: true}}"
	left := map[string]bool{}
	for _, v := range described(t) {
		left[v.path] = v.path != "global"
	}
	for _, c := range []struct{ before, values string }{
		{"", "image: {repository: registry.example/belfry}"},
		{"", "image: {repository: 'registry.example:5000/belfry'}"},
		{"", "image: {tag: v9}"},
		{"image: {tag: v9}", "image: {tag: v9, digest: '" + digest + "'}"},
		{"", "image: {pullPolicy: Always}"},
		{"", "image: {pullSecrets: [{name: r}]}"},
		{"", "commonLabels: {team: network}"},
		{"", "loadBalancerClass: example.com/lb"},
		{"", "drainTaint: example.com/drain"},
		{"", "ignoreExcludeLB: true"},
		{"", "log: {level: debug}"},
		{"", "log: {format: text}"},
		{"", "crds: {install: false}"},
		{"", "metrics: {secure: false}"},
		{"", "metrics: {certificateSecret: tls}"},
		{"", monitor},
		{monitor, "metrics: {serviceMonitor: {enabled: true, labels: {release: p}}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, interval: 15s}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, scrapeTimeout: 10s}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, relabelings: []}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: go_.*}]}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, serviceAccount: {namespace: m, name: prometheus-k8s}}}"},
		{monitor, "metrics: {serviceMonitor: {enabled: true, serviceAccount: {namespace: monitoring, name: p}}}"},
		{"", "metrics: {prometheusRule: {enabled: true}}"},
		{"metrics: {prometheusRule: {enabled: true}}", "metrics: {prometheusRule: {enabled: true, labels: {release: p}}}"},
		{"", "metrics: {dashboards: {enabled: true}}"},
		{"metrics: {dashboards: {enabled: true}}", "metrics: {dashboards: {enabled: true, namespace: monitoring}}"},
		{"metrics: {dashboards: {enabled: true}}", "metrics: {dashboards: {enabled: true, labels: {board: '2'}}}"},
		{"metrics: {dashboards: {enabled: true}}", "metrics: {dashboards: {enabled: true, annotations: {grafana_folder: Belfry}}}"},
		{"", "metrics: {podMonitor: {enabled: true}}"},
		{"metrics: {podMonitor: {enabled: true}}", "metrics: {podMonitor: {enabled: true, labels: {release: p}}}"},
		{"metrics: {podMonitor: {enabled: true}}", "metrics: {podMonitor: {enabled: true, interval: 15s}}"},
		{"metrics: {podMonitor: {enabled: true}}", "metrics: {podMonitor: {enabled: true, scrapeTimeout: 10s}}"},
		{"metrics: {podMonitor: {enabled: true}}", "metrics: {podMonitor: {enabled: true, relabelings: []}}"},
		{"metrics: {podMonitor: {enabled: true}}", "metrics: {podMonitor: {enabled: true, metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: go_.*}]}}"},
		{"", "networkPolicy: {enabled: true}"},
		{"networkPolicy: {enabled: true}", "networkPolicy: {enabled: true, apiServerPorts: [443, 16443]}"},
		{"", "openshift: {enabled: true}"},
		{"", "controller: {replicas: 3}"},
		{"", "controller: {priorityClassName: ''}"},
		{"", "controller: {nodeSelector: {a: b}}"},
		{"", "controller: {tolerations: []}"},
		{"", "controller: {affinity: {nodeAffinity: {}}}"},
		{"", "controller: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}]}"},
		{"", "controller: {updateStrategy: {type: Recreate}}"},
		{"", "controller: {terminationGracePeriodSeconds: 30}"},
		{"", "controller: {podSecurityContext: {runAsUser: null}}"},
		{"", "controller: {securityContext: {privileged: false}}"},
		{"", "controller: {resources: {requests: {cpu: 1}}}"},
		{"", "controller: {resources: {limits: {memory: 1Gi}}}"},
		{"", "controller: {resources: {claims: [{name: c}]}}"},
		{"", "controller: {podAnnotations: {a: b}}"},
		{"", "controller: {podLabels: {a: b}}"},
		{"", "controller: {extraArgs: [--x]}"},
		{"", "speaker: {rawSockets: false}"},
		{"", "speaker: {ping: {addresses: [192.0.2.0/24]}}"},
		{"speaker: {ping: {addresses: [192.0.2.0/24]}}", "speaker: {ping: {addresses: [192.0.2.0/24], interfaces: [bond0]}}"},
		{"", "speaker: {priorityClassName: ''}"},
		{"", "speaker: {nodeSelector: {a: b}}"},
		{"", "speaker: {tolerations: []}"},
		{"", "speaker: {affinity: {nodeAffinity: {}}}"},
		{"", "speaker: {updateStrategy: {type: OnDelete}}"},
		{"", "speaker: {terminationGracePeriodSeconds: 30}"},
		{"", "speaker: {podSecurityContext: {seLinuxOptions: {type: spc_t}}}"},
		{"", "speaker: {securityContext: {capabilities: {add: [NET_RAW, NET_ADMIN]}}}"},
		{"", "speaker: {resources: {requests: {cpu: 1}}}"},
		{"", "speaker: {resources: {limits: {memory: 1Gi}}}"},
		{"", "speaker: {resources: {claims: [{name: c}]}}"},
		{"", "speaker: {podAnnotations: {a: b}}"},
		{"", "speaker: {podLabels: {a: b}}"},
		{"", "speaker: {extraArgs: [--x]}"},
		{"", "extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: '{{ .Release.Namespace }}', labels: {app.kubernetes.io/instance: x, app.kubernetes.io/version: x, app.kubernetes.io/managed-by: x, app.kubernetes.io/part-of: x, helm.sh/chart: x}}}]"},
	} {
		before, after := charted(t, c.before), charted(t, c.values)
		if reflect.DeepEqual(before, after) {
			t.Errorf("%s changes nothing", c.values)
		}
		for path := range left {
			if value(toValues(t, c.values), path) && !value(toValues(t, c.before), path) {
				delete(left, path)
			}
		}
	}
	for path, untried := range left {
		if untried {
			t.Errorf("%s is described and not tried", path)
		}
	}
}

// value reports whether a value is among values.
func value(values map[string]any, path string) bool {
	first, rest, more := strings.Cut(path, ".")
	v, there := values[first]
	if !more || !there {
		return there
	}
	below, is := v.(object)
	return is && value(below, rest)
}

// A user of the platform's choice is what OpenShift asks for.
func TestThePlatformMayChooseTheUser(t *testing.T) {
	all := charted(t, "controller: {podSecurityContext: {runAsUser: null, runAsGroup: null}}")
	text, _ := json.Marshal(all["Deployment belfry-controller"])
	if !strings.Contains(string(text), `"runAsNonRoot":true`) || strings.Contains(string(text), "runAsUser") || strings.Contains(string(text), "runAsGroup") {
		t.Errorf("%s", text)
	}
}

func TestLabelsOfTheReleaseDoNotReplacePods(t *testing.T) {
	text, err := helm(chart, toValues(t, "commonLabels: {team: network}"))
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range parse(t, text) {
		if o["metadata"].(object)["labels"].(object)["team"] != "network" {
			t.Errorf("%s has not the common label", name)
		}
		spec, _ := o["spec"].(object)
		template, _ := spec["template"].(object)
		if template == nil {
			continue
		}
		want := object{"app.kubernetes.io/name": "belfry", "app.kubernetes.io/component": o["metadata"].(object)["labels"].(object)["app.kubernetes.io/component"]}
		if got := spec["selector"].(object)["matchLabels"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s selects %v, want %v", name, got, want)
		}
		want["team"] = "network"
		if got := template["metadata"].(object)["labels"]; !reflect.DeepEqual(got, want) {
			t.Errorf("the Pods of %s have labels %v, want %v", name, got, want)
		}
	}
}

func TestTheChartFollowsItsNamespace(t *testing.T) {
	for name, o := range charted(t, "") {
		ns := o["metadata"].(object)["namespace"]
		if ns != nil && ns != "belfry-system" {
			t.Errorf("%s is in namespace %v", name, ns)
		}
	}
	templates, err := filepath.Glob(chart + "/templates/*")
	if err != nil || len(templates) == 0 {
		t.Fatal(err, templates)
	}
	for _, file := range templates {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(strings.ReplaceAll(string(b), `replace "namespace: belfry-system"`, ""), "belfry-system") {
			t.Errorf("%s names the namespace", file)
		}
	}
}

// One release has one version, wherever it is written.
func TestVersionsAgree(t *testing.T) {
	b, err := os.ReadFile("../../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(b))
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[a-z0-9.]+)?$`).MatchString(version) {
		t.Errorf("VERSION is %q", version)
	}
	var about struct{ Version, AppVersion string }
	if b, err = os.ReadFile(chart + "/Chart.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &about); err != nil {
		t.Fatal(err)
	}
	if about.AppVersion != version || "v"+about.Version != version {
		t.Errorf("VERSION is %s, and the chart has version %s and appVersion %s", version, about.Version, about.AppVersion)
	}
	for name, o := range rendered(t, "overlays/both") {
		text, _ := json.Marshal(o)
		for _, m := range regexp.MustCompile(`"image":"([^"]*)"`).FindAllStringSubmatch(string(text), -1) {
			if m[1] != "ghcr.io/belfrylb/belfry:"+version {
				t.Errorf("%s has image %s, and VERSION is %s", name, m[1], version)
			}
		}
	}
}

func TestThePackedChartIsTheChart(t *testing.T) {
	first, err := pack(chart, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second, err := pack(chart, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(first)
	b, errB := os.ReadFile(second)
	if errA != nil || errB != nil || !slices.Equal(a, b) {
		t.Errorf("two packages of one chart differ: %v, %v", errA, errB)
	}
	loaded, err := loader.Load(first)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(loaded.Files, func(f *common.File) bool { return f.Name == "README.md" }) {
		t.Error("it has no README")
	}
	unpacked, err := helm(chart, nil)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := helm(first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if packed != unpacked {
		t.Error("packed, it installs something else")
	}
}
