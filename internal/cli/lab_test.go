package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/kube/client/versioned"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/world"
)

// Against a real API server, with the RBAC that is shipped and the controller's own loop.

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// A cluster is an API server with Belfry in it.
type cluster struct {
	*testing.T
	lab  *lab.Lab
	core kubernetes.Interface
	own  versioned.Interface
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// as runs a command line with a kubeconfig.
func (c *cluster) as(kubeconfig string, args ...string) (output string, code int) {
	c.Helper()
	return run(c.T, "", append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// admin runs it as one who may do everything.
func (c *cluster) admin(args ...string) (output string, code int) {
	c.Helper()
	return c.as(c.lab.Cluster.AdminKubeconfig(), args...)
}

// account returns the kubeconfig of a ServiceAccount that has some ClusterRoles in the
// whole cluster.
func (c *cluster) account(name string, roles ...string) (kubeconfig string) {
	c.Helper()
	_, err := c.core.CoreV1().ServiceAccounts("default").Create(c.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	c.must(err)
	for _, role := range roles {
		_, err := c.core.RbacV1().ClusterRoleBindings().Create(c.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-" + strings.ReplaceAll(role, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: name}},
		}, metav1.CreateOptions{})
		c.must(err)
	}
	kubeconfig, err = c.lab.Cluster.KubeconfigFor(c.Context(), "default", name)
	c.must(err)
	return kubeconfig
}

// control runs the controller's loop until the test ends.
func (c *cluster) control() {
	c.Helper()
	clients, err := kube.NewClients(c.lab.Cluster.AdminConfig(), "test")
	c.must(err)
	log := slog.New(slog.DiscardHandler)
	objects := kube.NewCluster(clients.Core, clients.Own, objects.Scope{Role: objects.Allocating, Namespace: lab.Namespace}, log)
	events := kube.NewRecorder(clients.Core, reporter, "test", log)
	loop := controller.New(controller.Options{
		Cluster: objects, Events: events, Metrics: controller.NewMetrics(prometheus.NewRegistry(), events),
		Settings: world.Settings{Namespace: lab.Namespace},
		Held:     func() bool { return true }, WriteTimeout: 10 * time.Second, Log: log,
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(c.Context()))
	var running sync.WaitGroup
	for _, life := range []func(context.Context){objects.Run, events.Run, func(ctx context.Context) { _ = loop.Lead(ctx) }} {
		running.Go(func() { life(ctx) })
	}
	c.Cleanup(func() { stop(); running.Wait() })
}

// expose makes a Service of both families.
func (c *cluster) expose(name string) {
	c.Helper()
	policy := corev1.IPFamilyPolicyRequireDualStack
	_, err := c.core.CoreV1().Services("default").Create(c.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &policy, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	c.must(err)
}

// holds waits until a Service is told by a reason that it is allocated, or why not.
func (c *cluster) holds(name, reason string) (addresses []string) {
	c.Helper()
	end := time.After(30 * time.Second)
	for {
		s, err := c.core.CoreV1().Services("default").Get(c.Context(), name, metav1.GetOptions{})
		c.must(err)
		addresses = nil
		for _, in := range s.Status.LoadBalancer.Ingress {
			addresses = append(addresses, in.IP)
		}
		if slices.ContainsFunc(s.Status.Conditions, func(c metav1.Condition) bool { return c.Type == "belfry.dev/Allocated" && c.Reason == reason }) {
			slices.Sort(addresses)
			return addresses
		}
		select {
		case <-end:
			c.Fatalf("%s is not told %s; seen last: %v %+v", name, reason, addresses, s.Status.Conditions)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// counts waits until a pool counts so many addresses of each family as assigned.
func (c *cluster) counts(pool string, n int64) {
	c.Helper()
	end := time.After(30 * time.Second)
	for {
		p, err := c.own.BelfryV1beta1().IPAddressPools().Get(c.Context(), pool, metav1.GetOptions{})
		c.must(err)
		if is := p.Status; is.IPv4 != nil && is.IPv6 != nil && is.IPv4.Assigned == n && is.IPv6.Assigned == n {
			return
		}
		select {
		case <-end:
			c.Fatalf("pool %s does not count %d: %+v", pool, n, p.Status)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kubeconfig writes one that reaches a server with a token.
func (c *cluster) kubeconfig(server, token string) string {
	c.Helper()
	config, err := clientcmd.LoadFromFile(c.lab.Cluster.AdminKubeconfig())
	c.must(err)
	for _, cluster := range config.Clusters {
		cluster.Server = server
	}
	for _, user := range config.AuthInfos {
		user.ClientCertificate, user.ClientKey, user.ClientCertificateData, user.ClientKeyData, user.Token = "", "", nil, nil, token
	}
	path := filepath.Join(c.TempDir(), "kubeconfig")
	c.must(clientcmd.WriteToFile(*config, path))
	return path
}

// nobody returns an address at which nobody listens.
func (c *cluster) nobody() string {
	c.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	defer l.Close()
	return "https://" + l.Addr().String()
}

func TestCommandsOnARealAPIServer(t *testing.T) {
	l := shared.Get(t)
	c := &cluster{t, l, kubernetes.NewForConfigOrDie(l.Cluster.AdminConfig()), versioned.NewForConfigOrDie(l.Cluster.AdminConfig())}
	ctx := t.Context()

	// Where it cannot look it says why, in a sentence, and ends with 2.
	cannot := func(name, kubeconfig, args, has string) {
		t.Helper()
		out, code := c.as(kubeconfig, strings.Fields(args)...)
		if code != CannotLook || !strings.HasPrefix(out, "error: ") || !strings.Contains(out, has) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %s ends with %d, want 2 and one line with %q:\n%s", name, args, code, has, out)
		}
	}
	away := c.kubeconfig(c.nobody(), "x")
	for _, args := range []string{"status", "explain web", "plan drain n1", "doctor --pre", "events", "drain n1", "bug-report --file -"} {
		cannot("no API server", away, args, "does not answer: connection refused")
	}
	cannot("a wrong token", c.kubeconfig(l.Cluster.Server(), "wrong"), "status", "does not know who you are")
	cannot("nothing is installed", l.Cluster.AdminKubeconfig(), "status", "has no kind IPAddressPool of belfry.dev/v1beta1: Belfry is not installed")
	if out, code := c.admin("doctor", "--pre"); code != Well || !strings.Contains(out, "none is known to run") {
		t.Errorf("before the installation doctor ends with %d:\n%s", code, out)
	}

	manifest := c.comesFromMetalLB()
	c.must(l.Product.Install(ctx))
	// What a migration writes is what the API server takes.
	if out, err := l.Cluster.KubectlInput(ctx, manifest, "apply", "--server-side", "--dry-run=server", "-f", "-"); err != nil {
		t.Errorf("the API server refuses what a migration wrote: %v\n%s\n%s", err, out, manifest)
	}
	for i := range 3 {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i+1)}}
		_, err := c.core.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		c.must(err)
	}
	c.control()
	_, err := c.own.BelfryV1beta1().IPAddressPools().Create(ctx, &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "edge"},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"203.0.113.10-203.0.113.12", "2001:db8:5::10-2001:db8:5::12"}},
	}, metav1.CreateOptions{})
	c.must(err)
	_, err = c.own.BelfryV1beta1().L2Advertisements().Create(ctx, &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}, metav1.CreateOptions{})
	c.must(err)
	c.expose("web")
	c.expose("api")
	c.holds("web", "Allocated")
	c.holds("api", "Allocated")
	c.counts("edge", 2)

	t.Run("who may view", func(t *testing.T) {
		c := &cluster{t, c.lab, c.core, c.own}
		// What the cluster aggregates into view.
		viewer := c.account("viewer", "system:aggregate-to-view", "belfry-view")
		for _, look := range []struct {
			args string
			code int
			has  string
		}{
			{"status", Problems, "Services    2, 2 with an address"},
			{"status", Problems, "edge  IPv6    [#############.......]  2/3"},
			{"status", Problems, "node/n1: its speaker has never reported"},
			{"status", Problems, "controller: no replica leads"},
			{"explain web", Problems, "gave it"},
			{"explain edge", Well, "default/web"},
			{"explain n1", Problems, "there is no SpeakerStatus of this name"},
			{"plan drain n1", Well, "Plan: "},
			{"move web n2 --dry-run", Well, "Plan: "},
			{"drain n1 --dry-run", Well, "Plan: "},
			{"doctor", Problems, "there is no DaemonSet of speakers"},
			{"doctor", Problems, "rights cannot be asked for"},
			{"doctor --pre", Well, "none is known to run"},
			{"events", Well, "IPAllocated"},
		} {
			out, code := c.as(viewer, strings.Fields(look.args)...)
			if code != look.code || !strings.Contains(out, look.has) || strings.Contains(out, "warning: cannot read") {
				t.Errorf("%s ends with %d, want %d with %q:\n%s", look.args, code, look.code, look.has, out)
			}
		}
		for args, resource := range map[string]string{"drain n1": "nodes", "undrain n1": "nodes", "rebalance edge": "l2advertisements"} {
			out, code := c.as(viewer, strings.Fields(args)...)
			if want := "but not do it: it takes the right to patch " + resource; code != CannotLook || !strings.Contains(out, want) {
				t.Errorf("who may view does %s: it ends with %d, want 2 with %q\n%s", args, code, want, out)
			}
		}
		for _, args := range []string{"status", "explain web", "plan drain n1", "doctor"} {
			out, code := c.as(c.account("stranger-"+strings.Fields(args)[0]), strings.Fields(args)...)
			if want := "you may not read services of the whole cluster, which the ClusterRole view"; code != CannotLook || !strings.Contains(out, want) {
				t.Errorf("who may nothing: %s ends with %d, want 2 with %q\n%s", args, code, want, out)
			}
		}
	})

	t.Run("what is planned then happens", func(t *testing.T) {
		c := &cluster{t, c.lab, c.core, c.own}
		file := filepath.Join(t.TempDir(), "edit.yaml")
		write := func(name string) {
			c.must(os.WriteFile(file, fmt.Appendf(nil, "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}\n", name), 0o644))
		}
		write("blog")
		var plan world.Plan
		out, code := c.admin("plan", "-f", file, "-o", "json")
		if err := json.Unmarshal([]byte(out), &plan); err != nil || code != Well {
			t.Fatalf("%d %v:\n%s", code, err, out)
		}
		var gets []string
		for _, ch := range plan.Changes {
			if ch.Verb == world.Gets && ch.Service == "default/blog" {
				gets = append(gets, ch.Address)
			}
		}
		slices.Sort(gets)
		c.expose("blog")
		if got := c.holds("blog", "Allocated"); len(got) != 2 || !slices.Equal(gets, got) {
			t.Errorf("blog has %v, planned was %v", got, gets)
		}
		write("late")
		if out, code := c.admin("plan", "-f", file, "--fail-on", "waits"); code != Problems || !strings.Contains(out, "1 waits") {
			t.Errorf("%d\n%s", code, out)
		}
		c.expose("late")
		if got := c.holds("late", "Exhausted"); len(got) > 0 {
			t.Errorf("late has %v", got)
		}
	})

	t.Run("verbs", func(t *testing.T) {
		c := &cluster{t, c.lab, c.core, c.own}
		web := func() (metav1.Object, error) {
			return c.core.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
		}
		node := func() (metav1.Object, error) { return c.core.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{}) }
		ad := func() (metav1.Object, error) {
			return c.own.BelfryV1beta1().L2Advertisements().Get(ctx, "edge", metav1.GetOptions{})
		}
		for _, step := range []struct {
			args string
			of   func() (metav1.Object, error)
			key  string
			want func(string) bool
			says string
		}{
			{"drain n1 --dry-run", node, objects.AnnotationDrain, func(v string) bool { return v == "" }, "Plan: "},
			{"drain n1", node, objects.AnnotationDrain, func(v string) bool { return v == "true" }, "node/n1 annotated"},
			{"undrain n1 --dry-run", node, objects.AnnotationDrain, func(v string) bool { return v == "true" }, "Plan: "},
			{"undrain n1", node, objects.AnnotationDrain, func(v string) bool { return v == "" }, "node/n1 annotated"},
			{"move web n3 --dry-run", web, objects.AnnotationMove, func(v string) bool { return v == "" }, "Plan: "},
			{"move web n3", web, objects.AnnotationMove, func(v string) bool { return v == "n3" }, "service/web annotated"},
			{"move web n3", web, objects.AnnotationMove, func(v string) bool { return strings.HasPrefix(v, "n3 ") }, "service/web annotated"},
			{"rebalance edge --dry-run", ad, objects.AnnotationRebalance, func(v string) bool { return v == "" }, "Plan: "},
			{"rebalance edge", ad, objects.AnnotationRebalance, func(v string) bool { return v != "" }, "l2advertisement/edge annotated"},
		} {
			out, code := c.admin(strings.Fields(step.args)...)
			o, err := step.of()
			c.must(err)
			if v := o.GetAnnotations()[step.key]; code != Well || !step.want(v) || !strings.Contains(out, step.says) || !strings.Contains(out, "Plan: ") {
				t.Errorf("%s ends with %d and leaves %q, want %q:\n%s", step.args, code, v, step.says, out)
			}
		}
		// A move that cannot be is not asked for.
		out, code := c.admin("move", "web", "nowhere")
		s, err := web()
		c.must(err)
		if v := s.GetAnnotations()[objects.AnnotationMove]; code != Problems || !strings.HasPrefix(v, "n3 ") || !strings.Contains(out, "refused") {
			t.Errorf("a move to nowhere ends with %d and leaves %q:\n%s", code, v, out)
		}
	})

	t.Run("what happens is followed", func(t *testing.T) { followed(&cluster{t, c.lab, c.core, c.own}) })

	t.Run("bug reports", func(t *testing.T) { reported(&cluster{t, c.lab, c.core, c.own}) })
}

// followed checks that who may view sees a Service come and go, with all that is watched.
func followed(c *cluster) {
	tl := &tool{where: &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.account("watcher", "system:aggregate-to-view", "belfry-view")}, override: &clientcmd.ConfigOverrides{}}
	client, err := tl.reader()
	c.must(err)
	f := &feed{store: &store{}, in: make(chan func(*feed)), troubles: map[string]string{}}
	c.must(readCluster(c.Context(), f.store, client, lab.Namespace, worldKinds))
	ctx, stop := context.WithCancel(c.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	watched := 0
	for _, k := range kinds {
		if version := f.store.versions[k.resource]; version != "" {
			watched++
			running.Go(func() { f.follower(ctx, k, client, lab.Namespace).run(ctx, version) })
		}
	}
	if watched < 10 {
		c.Errorf("%d kinds are watched: %v", watched, f.store.versions)
	}
	seen := make(chan string)
	running.Go(func() {
		f.run(ctx, func(trouble string) {
			there := slices.ContainsFunc(f.store.objects.Services, func(s *corev1.Service) bool { return s.Name == "followed" })
			select {
			case seen <- fmt.Sprint(there, trouble):
			case <-ctx.Done():
			}
		})
	})
	await := func(want string) {
		c.Helper()
		end := time.After(30 * time.Second)
		for {
			select {
			case is := <-seen:
				if is == want {
					return
				}
				if strings.TrimPrefix(strings.TrimPrefix(is, "true"), "false") != "" {
					c.Fatal(is)
				}
			case <-end:
				c.Fatalf("not seen: %s", want)
			}
		}
	}
	c.expose("followed")
	await("true")
	c.must(c.core.CoreV1().Services("default").Delete(c.Context(), "followed", metav1.DeleteOptions{}))
	await("false")
}

// planted are what must never be in a bug report, each where somebody may have put it.
const planted = `apiVersion: v1
kind: Secret
metadata: {name: planted, namespace: belfry-system, labels: {of: planted-label}}
type: kubernetes.io/basic-auth
stringData: {password: planted-password}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: planted, namespace: default, annotations: {note: planted-annotation}}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}, annotations: {note: planted-template}}
    spec:
      containers:
      - {name: x, image: example.com/x, args: [--token=planted-argument], env: [{name: TOKEN, value: planted-environment}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: belfry-speaker, namespace: belfry-system}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec:
      containers:
      - {name: speaker, image: "example.com/belfry:v9", args: [--log-level=debug], env: [{name: TOKEN, value: planted-environment}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: planted, namespace: belfry-system}
data: {token: planted-data}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data:
  config.conf: "mode: ipvs\nipvs: {strictARP: true}\nclientConnection: {kubeconfig: planted-path}\n"
  kubeconfig.conf: "token: planted-token"
---
apiVersion: v1
kind: Service
metadata: {name: planted-service, namespace: default, annotations: {example.com/password: planted-annotation, belfry.dev/loadBalancerIPs: "203.0.113.77"}}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: tor, annotations: {note: planted-annotation}}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "2001:db8::1", passwordSecret: {name: planted}}
---
apiVersion: v1
kind: Pod
metadata: {name: belfry-speaker-x, namespace: belfry-system, labels: {app: z}}
spec:
  nodeName: n1
  serviceAccountName: belfry-speaker
  containers:
  - {name: speaker, image: "example.com/belfry:v9", env: [{name: TOKEN, value: planted-environment}]}
`

// reported checks that a report has what it should, and nothing that was planted.
func reported(c *cluster) {
	c.must(c.lab.Cluster.Apply(c.Context(), planted))
	c.holds("planted-service", "AddressNotInPool")
	viewer := c.account("reporter", "system:aggregate-to-view", "belfry-view")
	for who, kubeconfig := range map[string]string{"admin": c.lab.Cluster.AdminKubeconfig(), "viewer": viewer} {
		file := filepath.Join(c.TempDir(), who+".tar.gz")
		out, code := c.as(kubeconfig, "bug-report", "--file", file)
		if code != Well || !strings.Contains(out, file+" has been written") {
			c.Fatalf("%s: bug-report ends with %d:\n%s", who, code, out)
		}
		if out, code := c.as(kubeconfig, "bug-report", "--file", file); code != CannotLook || !strings.Contains(out, "file exists") {
			c.Errorf("%s: it is written over: %d\n%s", who, code, out)
		}
		archive, err := os.ReadFile(file)
		c.must(err)
		files := unpack(c.T, archive)
		config, err := os.ReadFile(viewer)
		c.must(err)
		for name, text := range files {
			for _, word := range regexp.MustCompile(`planted-[a-z]+`).FindAllString(text, -1) {
				if word != "planted-service" {
					c.Errorf("%s: %s has %s", who, name, word)
				}
			}
			for line := range strings.Lines(string(config)) {
				if secret, is := strings.CutPrefix(strings.TrimSpace(line), "token: "); is && strings.Contains(text, secret) {
					c.Errorf("%s: %s has the token of the kubeconfig", who, name)
				}
			}
		}
		for name, has := range map[string]string{
			"about.txt": "API server v", "objects/services.yaml": "203.0.113.77", "objects/bgppeers.yaml": "passwordSecret", "objects/events.yaml": "IPAllocated",
			"objects/daemonsets.yaml": "--log-level=debug", "objects/configmaps.yaml": "strictARP: true", "objects/pods.yaml": "belfry-speaker-x",
			"objects/ipaddresspools.yaml": "2001:db8:5::10", "objects/speakerstatuses.yaml": "items", "objects/leases.yaml": "belfry-controller",
		} {
			if !strings.Contains(files[name], has) {
				c.Errorf("%s: %s does not have %q:\n%s", who, name, has, files[name])
			}
		}
		for command, has := range map[string]string{
			"status": "Services    5, 3 with an address", "explain planted-service": "203.0.113.77", "explain tor": "2001:db8::1", "doctor": "mode ipvs with strictARP", "events": "IPAllocated",
		} {
			if out, code := run(c.T, "", append(strings.Fields(command), "--from", file)...); code == CannotLook || !strings.Contains(out, has) {
				c.Errorf("%s: %s of the report ends with %d, without %q:\n%s", who, command, code, has, out)
			}
		}
	}
}
