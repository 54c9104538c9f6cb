package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/speaker"
)

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// installed returns an API server to which the single file was applied as users
// apply it.
func installed(t *testing.T) *lab.Lab {
	t.Helper()
	l := shared.Get(t)
	if _, err := l.Cluster.Kubectl(t.Context(), "apply", "--server-side", "--validate=strict", "-f", "belfry.yaml"); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTheSingleFileAppliesInOneGoAndAgainWithoutAChange(t *testing.T) {
	l := installed(t)
	out, err := l.Cluster.Kubectl(t.Context(), "diff", "--server-side", "-f", "belfry.yaml")
	if err != nil || out != "" {
		t.Errorf("applied, it differs: %v\n%s", err, out)
	}
	// And client-side, as most people apply.
	if _, err := l.Cluster.Kubectl(t.Context(), "apply", "--validate=strict", "--dry-run=server", "-f", "belfry.yaml"); err != nil {
		t.Error(err)
	}
	unknown := strings.Replace(read(t, "belfry.yaml"), "hostNetwork: true", "hostNetworks: true", 1)
	if _, err := l.Cluster.KubectlInput(t.Context(), unknown, "apply", "--validate=strict", "--dry-run=server", "-f", "-"); err == nil {
		t.Error("an unknown field is accepted: the test sees nothing")
	}
}

func TestEachOverlayAndComponentApplies(t *testing.T) {
	l := installed(t)
	var kustomizations []string
	overlays, err := filepath.Glob("overlays/*/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range overlays {
		kustomizations = append(kustomizations, filepath.Dir(o))
	}
	components, err := filepath.Glob("components/*/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range components {
		switch filepath.Base(filepath.Dir(c)) {
		case "alerts", "monitoring", "openshift", "pod-monitoring":
			continue // their kinds are the Prometheus operator's, or OpenShift's
		}
		dir, err := os.MkdirTemp("overlays", "test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		text := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../both]\ncomponents: [../../%s]\n", filepath.Dir(c))
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		kustomizations = append(kustomizations, dir)
	}
	if len(kustomizations) < 7 {
		t.Errorf("only %v are found", kustomizations)
	}
	for _, k := range kustomizations {
		if _, err := l.Cluster.Kubectl(t.Context(), "apply", "--validate=strict", "--dry-run=server", "-k", k); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}

func TestTheChartApplies(t *testing.T) {
	l := installed(t)
	for _, values := range []string{
		"{}",
		"{loadBalancerClass: example.com/lb, drainTaint: example.com/drain, ignoreExcludeLB: true, networkPolicy: {enabled: true}," +
			" image: {pullSecrets: [{name: registry}]}, log: {level: debug}, metrics: {certificateSecret: tls}," +
			" controller: {podAnnotations: {a: b}, extraArgs: [--retry-period=1s]}, speaker: {podAnnotations: {a: b}, extraArgs: [--announce-rate=100]}}",
	} {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
			t.Fatal(err)
		}
		render := exec.CommandContext(t.Context(), "go", "-C", "../hack/manifests", "run", ".", "helm", "../../manifests/helm/belfry", file)
		text, err := render.Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Cluster.KubectlInput(t.Context(), string(text), "apply", "--validate=strict", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("values %s: %v", values, err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// decode reads the object of a kind out of the single file.
func decode(t *testing.T, kind string, into any) {
	t.Helper()
	for document := range strings.SplitSeq(read(t, "belfry.yaml"), "\n---\n") {
		if strings.Contains(document, "\nkind: "+kind+"\n") {
			if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("there is no %s", kind)
}

// warnings collects what the API server warns of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// The controller is content with the strictest of the Pod Security Standards;
// the speaker goes beyond it by what it cannot do without, and nothing else.
func TestPodSecurityMindsNothingButTheSpeakersNetwork(t *testing.T) {
	l := installed(t)
	w := &warnings{}
	config := rest.CopyConfig(l.Cluster.AdminConfig())
	config.WarningHandler = w
	client := kubernetes.NewForConfigOrDie(config)
	const ns = "strict"
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   ns,
		Labels: map[string]string{"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "latest"},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}

	var controller appsv1.Deployment
	decode(t, "Deployment", &controller)
	controller.Namespace = ns
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), &controller, dry); err != nil {
		t.Fatal(err)
	}
	if got := w.take(); len(got) > 0 {
		t.Errorf("the controller: %q", got)
	}

	var daemons appsv1.DaemonSet
	decode(t, "DaemonSet", &daemons)
	daemons.Namespace = ns
	if _, err := client.AppsV1().DaemonSets(ns).Create(t.Context(), &daemons, dry); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(w.take(), "\n")
	_, list, ok := strings.Cut(got, `would violate PodSecurity "restricted:latest": `)
	if !ok {
		t.Fatalf("the speaker: %q", got)
	}
	var violations []string
	for v := range strings.SplitSeq(list, "), ") {
		name, _, _ := strings.Cut(v, " (")
		violations = append(violations, name)
	}
	slices.Sort(violations)
	permitted := []string{"host namespaces", "hostPort", "probe or lifecycle host", "runAsNonRoot != true", "runAsUser=0", "unrestricted capabilities"}
	for _, v := range violations {
		if !slices.Contains(permitted, v) {
			t.Errorf("the speaker: %s, in %q", v, list)
		}
	}
	if !slices.Contains(violations, "host namespaces") {
		t.Errorf("the speaker's use of the node's network is not minded: the test sees nothing: %q", list)
	}
	// Its own namespace lets both in.
	for _, violated := range []string{"violate", "PodSecurity"} {
		if strings.Contains(strings.Join(w.take(), " "), violated) {
			t.Error("the namespace of the installation warns")
		}
	}
	var namespace corev1.Namespace
	decode(t, "Namespace", &namespace)
	if namespace.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Errorf("the namespace's labels are %v", namespace.Labels)
	}
}

// The powers of the two are what the lab runs them with (hack/lab), and end
// there.
func TestTheContainersHaveNoMorePowerThanTheLabGivesThem(t *testing.T) {
	var controller appsv1.Deployment
	var daemons appsv1.DaemonSet
	decode(t, "Deployment", &controller)
	decode(t, "DaemonSet", &daemons)
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		add  []corev1.Capability
	}{
		{"controller", controller.Spec.Template.Spec, nil},
		{"speaker", daemons.Spec.Template.Spec, []corev1.Capability{"NET_RAW"}},
	} {
		if len(c.spec.Containers) != 1 || len(c.spec.InitContainers) > 0 || len(c.spec.Volumes) > 0 {
			t.Errorf("the %s has more than one container, or volumes", c.name)
		}
		s := c.spec.Containers[0].SecurityContext
		if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, c.add) {
			t.Errorf("capabilities of the %s: %+v", c.name, s.Capabilities)
		}
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Privileged != nil {
			t.Errorf("security context of the %s: %+v", c.name, s)
		}
		if p := c.spec.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("seccomp profile of the %s: %+v", c.name, p)
		}
		if r := c.spec.Containers[0].Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || !r.Limits.Cpu().IsZero() {
			t.Errorf("resources of the %s: %+v; want requests, and no limit of CPU", c.name, r)
		}
	}
	if !daemons.Spec.Template.Spec.HostNetwork || controller.Spec.Template.Spec.HostNetwork {
		t.Error("the speaker uses the node's network, and the controller does not")
	}
}

// A speaker that is told to go has the time to hand its addresses over and to
// let routers find another way; and on no node are there ever two.
func TestARollingUpdateLeavesTimeToHandOver(t *testing.T) {
	var d appsv1.DaemonSet
	decode(t, "DaemonSet", &d)
	const spare = 5 * time.Second
	if grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second; grace < speaker.DefaultGrace+spare {
		t.Errorf("the kubelet waits %s for a speaker that takes more than %s", grace, speaker.DefaultGrace)
	}
	u := d.Spec.UpdateStrategy.RollingUpdate
	if u == nil || u.MaxUnavailable.IntValue() != 1 || u.MaxSurge.IntValue() != 0 {
		t.Errorf("rolling update: %+v; want one after the other, and no surge", u)
	}
	var tolerated bool
	for _, x := range d.Spec.Template.Spec.Tolerations {
		tolerated = tolerated || x.Operator == corev1.TolerationOpExists && x.Key == "" && x.Effect == ""
	}
	if !tolerated {
		t.Error("a taint keeps the speaker away from a node whose addresses it announces")
	}
	var c appsv1.Deployment
	decode(t, "Deployment", &c)
	if *c.Spec.Replicas != 2 || c.Spec.Template.Spec.Affinity.PodAntiAffinity == nil {
		t.Error("the controller has two replicas, apart from each other")
	}
}
