package kube_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/kube/client/versioned"
	"github.com/belfrylb/belfry/internal/kube/lease"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// These tests speak to a real API server with the RBAC that is shipped.

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

const (
	controller = "belfry-controller"
	speaker    = "belfry-speaker"
)

// A bench is an API server, its administrator, and a namespace for one test.
type bench struct {
	*testing.T
	lab   *lab.Lab
	admin kubernetes.Interface
	own   versioned.Interface
	ns    string
	// patience is how long a fact is waited for; zero is 10 s.
	patience time.Duration
}

func newBench(t *testing.T) *bench { return newBenchOn(t, shared.Get(t)) }

func newBenchOn(t *testing.T, l *lab.Lab) *bench {
	if err := l.Product.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &bench{
		T: t, lab: l, admin: kubernetes.NewForConfigOrDie(l.Cluster.AdminConfig()), own: versioned.NewForConfigOrDie(l.Cluster.AdminConfig()),
		ns: strings.ToLower(strings.ReplaceAll(t.Name()[:min(len(t.Name()), 60)], "/", "-")),
	}
	_, err := b.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.ns}}, metav1.CreateOptions{})
	b.must(err)
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// clients are those of a ServiceAccount.
func (b *bench) clients(account string) kube.Clients {
	b.Helper()
	return b.clientsOn("", account)
}

// clientsOn are those of a Pod on a node.
func (b *bench) clientsOn(node, account string) kube.Clients {
	b.Helper()
	config, err := b.lab.Cluster.ConfigOn(b.Context(), node, lab.Namespace, account)
	b.must(err)
	clients, err := kube.NewClients(config, "test")
	b.must(err)
	return clients
}

// cluster watches as a ServiceAccount until the test ends.
func (b *bench) cluster(account string, o objects.Scope) *kube.Cluster {
	b.Helper()
	clients := b.clients(account)
	c := kube.NewCluster(clients.Core, clients.Own, o, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		c.Run(ctx)
		close(done)
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	select {
	case <-c.Synced():
	case <-time.After(20 * time.Second):
		b.Fatal("the cluster is not read within 20 s")
	}
	return c
}

func (b *bench) eventually(what string, look func() (string, bool)) {
	b.Helper()
	patience := cmp.Or(b.patience, 10*time.Second)
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		seen, ok := look()
		if ok {
			return
		}
		select {
		case <-deadline:
			b.Fatalf("not within %v: %s; seen last: %s", patience, what, seen)
		case <-tick.C:
		}
	}
}

func (b *bench) create(name string, edit ...func(*corev1.Service)) *corev1.Service {
	b.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, e := range edit {
		e(s)
	}
	out, err := b.admin.CoreV1().Services(b.ns).Create(b.Context(), s, metav1.CreateOptions{})
	b.must(err)
	return out
}

func (b *bench) patch(name, body string) {
	b.Helper()
	_, err := b.admin.CoreV1().Services(b.ns).Patch(b.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	b.must(err)
}

func (b *bench) key(name string) lb.ServiceKey { return lb.ServiceKey{Namespace: b.ns, Name: name} }

// see waits until the cluster shows a Service that satisfies ok.
func (b *bench) see(c *kube.Cluster, name string, ok func(objects.Service) bool) objects.Service {
	b.Helper()
	var s objects.Service
	b.eventually("the watch shows service "+name, func() (string, bool) {
		var found bool
		s, found = c.Service(b.key(name))
		return fmt.Sprintf("%+v", s), found && ok(s)
	})
	return s
}

func whatever(objects.Service) bool { return true }

// snapshot is the snapshot's part that belongs to the test.
func (b *bench) snapshot(c *kube.Cluster) []lb.Service {
	var out []lb.Service
	for _, s := range c.Snapshot().Services {
		if s.Key.Namespace == b.ns {
			out = append(out, s)
		}
	}
	return out
}

func names(services []lb.Service) string {
	var out []string
	for _, s := range services {
		out = append(out, s.Key.Name)
	}
	return strings.Join(out, " ")
}

func TestSnapshotFollowsTheCluster(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	for account, role := range map[string]objects.Role{controller: objects.Allocating, speaker: objects.Announcing} {
		t.Run(account, func(t *testing.T) {
			b := &bench{T: t, lab: b.lab, admin: b.admin, own: b.own, ns: b.ns}
			c := b.cluster(account, objects.Scope{Role: role})
			for _, n := range []string{"c", "a", "b", "d"} {
				b.create(n)
				b.see(c, n, whatever)
			}
			if got := names(b.snapshot(c)); got != "a b c d" {
				t.Errorf("snapshot has %q, want a b c d", got)
			}
			before := c.Snapshot()
			b.must(b.admin.CoreV1().Services(b.ns).Delete(ctx, "b", metav1.DeleteOptions{}))
			b.patch("c", `{"spec":{"type":"ClusterIP"}}`)
			b.patch("d", `{"metadata":{"labels":{"x":"y"}}}`)
			b.create("aa")
			b.eventually("all changes are seen", func() (string, bool) {
				got := b.snapshot(c)
				return names(got), names(got) == "a aa d" && got[2].Labels == "x=y"
			})
			if got := names(slices.DeleteFunc(slices.Clone(before.Services), func(s lb.Service) bool { return s.Key.Namespace != b.ns })); got != "a b c d" {
				t.Errorf("a snapshot that was handed out has become %q", got)
			}

			slice := &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Name: "a-1", Labels: map[string]string{discoveryv1.LabelServiceName: "a"}},
				AddressType: discoveryv1.AddressTypeIPv6,
				Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"fd00::1"}, NodeName: &[]string{"node1"}[0]}},
			}
			_, err := b.admin.DiscoveryV1().EndpointSlices(b.ns).Create(ctx, slice, metav1.CreateOptions{})
			b.must(err)
			b.eventually("endpoints are counted", func() (string, bool) {
				got := b.snapshot(c)[0].Endpoints
				return fmt.Sprint(got), reflect.DeepEqual(got, lb.Endpoints{IPv6: lb.NodeEndpoints{"node1": {Ready: 1}}})
			})
			if role == objects.Allocating { // announcing does not depend on Namespaces
				_, err = b.admin.CoreV1().Namespaces().Patch(ctx, b.ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"`+account+`"}}}`), metav1.PatchOptions{})
				b.must(err)
				b.eventually("the namespace's labels are seen", func() (string, bool) {
					got := b.snapshot(c)[0].NamespaceLabels
					return fmt.Sprint(got), got["team"] == account
				})
			}
			b.must(b.admin.DiscoveryV1().EndpointSlices(b.ns).Delete(ctx, "a-1", metav1.DeleteOptions{}))
			b.eventually("endpoints are gone", func() (string, bool) {
				got := b.snapshot(c)[0].Endpoints
				return fmt.Sprint(got), reflect.DeepEqual(got, lb.Endpoints{})
			})
			for _, n := range []string{"a", "aa", "c", "d"} {
				b.must(b.admin.CoreV1().Services(b.ns).Delete(ctx, n, metav1.DeleteOptions{}))
			}
			b.eventually("all are gone", func() (string, bool) { got := b.snapshot(c); return names(got), len(got) == 0 })
		})
	}
}

func TestChangesNameWhatChanged(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	deaf := b.cluster(speaker, objects.Scope{Role: objects.Announcing})
	c.Everything()
	deaf.Everything()
	p, err := b.own.BelfryV1beta1().IPAddressPools().Create(ctx, &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "changes"}, Spec: v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.0/28"}},
	}, metav1.CreateOptions{})
	b.must(err)
	t.Cleanup(func() {
		_ = b.own.BelfryV1beta1().IPAddressPools().Delete(context.WithoutCancel(ctx), "changes", metav1.DeleteOptions{})
	})
	for _, c := range []*kube.Cluster{c, deaf} {
		var got kube.Changes
		b.eventually("the pool is news", func() (string, bool) {
			select {
			case <-c.Changed():
				got = c.Changes()
			default:
			}
			return fmt.Sprintf("%+v", got), got.Config
		})
	}
	// Status alone matters to who allocates, and to nobody else.
	out, err := c.WritePoolStatus(ctx, p, v1beta1.IPAddressPoolStatus{IPv4: &v1beta1.AddressCount{Total: 16, Available: 16}})
	if out != kube.Done || err != nil {
		t.Fatalf("pool status: %v, %v", out, err)
	}
	<-c.Changed()
	if got := c.Changes(); !got.Pools || got.Config {
		t.Errorf("a new status of a pool gives %+v", got)
	}
	b.create("web")
	b.see(deaf, "web", whatever)
	<-deaf.Changed()
	if got := deaf.Changes(); got.Config || got.Pools || !slices.Equal(got.Services, []lb.ServiceKey{b.key("web")}) {
		t.Errorf("a speaker hears %+v, want the service only", got)
	}
}

func write(addresses ...string) objects.ServiceWrite {
	w := objects.ServiceWrite{Allocated: objects.Condition{Status: "True", Reason: "Allocated", Message: "m"}}
	for _, a := range addresses {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(a))
		w.Pools = append(w.Pools, "edge")
	}
	return w
}

func TestOneWriteCarriesAllAndIsKnownAtOnce(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	b.create("web")
	s := b.see(c, "web", whatever)
	want := write("192.0.2.1", "2001:db8::1")
	want.Announced = &objects.Condition{Status: "False", Reason: "NoEndpoint", Message: "n"}
	mark, err := b.lab.Cluster.AuditNow()
	b.must(err)
	out, err := c.WriteService(ctx, s, want, objects.AllParts)
	if out != kube.Done || err != nil {
		t.Fatalf("%v, %v", out, err)
	}
	// Without waiting for the watch.
	now, _ := c.Service(b.key("web"))
	if !now.Carries(want) || !now.Exact || fmt.Sprint(now.AssignedPools) != "[edge edge]" {
		t.Errorf("after the write the cluster shows %+v", now)
	}
	if out, err := c.WriteService(ctx, now, want, objects.AllParts); out != kube.Unchanged || err != nil {
		t.Errorf("the same again: %v, %v", out, err)
	}
	writes, err := b.lab.Cluster.Writes(mark, lab.Namespace)
	b.must(err)
	if len(writes) != 1 {
		t.Errorf("writes: %v, want one", writes)
	}
	// The conditions of others stay when ours go.
	_, err = b.admin.CoreV1().Services(b.ns).Patch(ctx, "web", types.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"else.example/Seen","status":"True","reason":"R","message":"","lastTransitionTime":"2024-01-01T00:00:00Z"}]}}`), metav1.PatchOptions{}, "status")
	b.must(err)
	now = b.see(c, "web", func(s objects.Service) bool { return s.Version != now.Version })
	if out, err := c.WriteService(ctx, now, objects.ServiceWrite{Announced: &objects.Condition{}}, objects.AllParts); out != kube.Done || err != nil {
		t.Fatalf("%v, %v", out, err)
	}
	got, err := b.admin.CoreV1().Services(b.ns).Get(ctx, "web", metav1.GetOptions{})
	b.must(err)
	if len(got.Annotations) != 0 || len(got.Status.LoadBalancer.Ingress) != 0 || len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Type != "else.example/Seen" {
		t.Errorf("after release: %v %+v", got.Annotations, got.Status)
	}
}

func TestWritesEndInTheirOutcomes(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	fresh := func(name string) objects.Service {
		b.create(name)
		return b.see(c, name, whatever)
	}

	s := fresh("stale")
	b.patch("stale", `{"metadata":{"labels":{"x":"y"}}}`)
	if out, err := c.WriteService(ctx, s, write("192.0.2.1"), objects.AllParts); out != kube.Stale {
		t.Errorf("a version that is not the latest: %v, %v", out, err)
	}
	s = fresh("gone")
	b.must(b.admin.CoreV1().Services(b.ns).Delete(ctx, "gone", metav1.DeleteOptions{}))
	if out, err := c.WriteService(ctx, s, write("2001:db8::1"), objects.AllParts); out != kube.Gone {
		t.Errorf("a service that is gone: %v, %v", out, err)
	}
	b.create("gone")
	if out, err := c.WriteService(ctx, s, write("2001:db8::1"), objects.AllParts); out != kube.Stale && out != kube.Gone {
		t.Errorf("its successor by the same name: %v, %v", out, err)
	}
	s = fresh("refused")
	bad := write("192.0.2.1")
	bad.Pools[0] = strings.Repeat("long", 100_000)
	if out, err := c.WriteService(ctx, s, bad, objects.AllParts); out != kube.Refused || err == nil {
		t.Errorf("an annotation that is too long: %v, %v", out, err)
	}
	expired, cancel := context.WithCancel(ctx)
	cancel()
	if out, err := c.WriteService(expired, s, write("192.0.2.1"), objects.AllParts); out != kube.Unknown || err == nil {
		t.Errorf("no answer: %v, %v", out, err)
	}
}

func TestWhatLeftIsReportedAndCleaned(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	for _, name := range []string{"marked", "deleted", "returned"} {
		b.create(name)
		if out, err := c.WriteService(ctx, b.see(c, name, whatever), write("192.0.2.1"), objects.AllParts); out != kube.Done {
			t.Fatalf("%v, %v", out, err)
		}
	}
	b.create("plain")
	b.see(c, "plain", whatever)
	c.Changes()
	uid := map[string]string{}
	for _, name := range []string{"marked", "deleted", "returned", "plain"} {
		s, _ := c.Service(b.key(name))
		uid[name] = s.UID
	}
	b.patch("marked", `{"spec":{"type":"ClusterIP"}}`)
	b.patch("plain", `{"spec":{"type":"ClusterIP"}}`)
	b.patch("returned", `{"spec":{"type":"NodePort"}}`)
	b.must(b.admin.CoreV1().Services(b.ns).Delete(ctx, "deleted", metav1.DeleteOptions{}))
	left := map[lb.ServiceKey]string{}
	b.eventually("three that carried something have left", func() (string, bool) {
		for key, uid := range c.Changes().Left {
			left[key] = uid
		}
		return fmt.Sprint(left), len(left) == 3
	})
	if left[b.key("marked")] != uid["marked"] || left[b.key("deleted")] != uid["deleted"] || left[b.key("returned")] != uid["returned"] {
		t.Errorf("left: %v, want %v", left, uid)
	}
	found, err := c.Leftovers(ctx)
	b.must(err)
	if found[b.key("marked")] != uid["marked"] || found[b.key("returned")] != uid["returned"] || len(found) != 2 {
		t.Errorf("leftovers: %v", found)
	}
	b.patch("returned", `{"spec":{"type":"LoadBalancer"}}`)
	for name, want := range map[string]kube.Outcome{"marked": kube.Done, "deleted": kube.Gone, "returned": kube.Unchanged} {
		if out, err := c.CleanService(ctx, b.key(name), uid[name]); out != want || err != nil {
			t.Errorf("clean %s: %v, %v; want %v", name, out, err, want)
		}
	}
	got, err := b.admin.CoreV1().Services(b.ns).Get(ctx, "marked", metav1.GetOptions{})
	b.must(err)
	if len(got.Annotations) != 0 || len(got.Status.Conditions) != 0 {
		t.Errorf("marks remain: %v %v", got.Annotations, got.Status.Conditions)
	}
}

func TestCatchUpKnowsWhatTheWatchDoesNotYet(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	other := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	// A cluster whose watch stopped: to it, time stands still.
	clients := b.clients(controller)
	c := kube.NewCluster(clients.Core, clients.Own, objects.Scope{}, slog.New(slog.DiscardHandler))
	b.create("old")
	b.see(other, "old", whatever)
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { c.Run(watching); close(done) }()
	<-c.Synced()
	stop()
	<-done
	if out, err := other.WriteService(ctx, b.see(other, "old", whatever), write("2001:db8::1"), objects.AllParts); out != kube.Done {
		t.Fatalf("%v, %v", out, err)
	}
	b.create("new")
	if _, ok := c.Service(b.key("new")); ok {
		t.Fatal("the watch has not stopped")
	}
	b.must(c.CatchUp(ctx))
	s, _ := c.Service(b.key("old"))
	if fmt.Sprint(s.Assigned) != "[2001:db8::1]" {
		t.Errorf("the assignment is unknown: %+v", s)
	}
	if _, ok := c.Service(b.key("new")); !ok {
		t.Error("the new service is unknown")
	}
}

func TestPoolFinalizerComesAndGoes(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	pools := b.own.BelfryV1beta1().IPAddressPools()
	_, err := pools.Create(ctx, &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "fin", Finalizers: []string{"else.example/keep"}},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"2001:db8::/64"}},
	}, metav1.CreateOptions{})
	b.must(err)
	pool := func() *v1beta1.IPAddressPool {
		var p *v1beta1.IPAddressPool
		b.eventually("the pool is seen", func() (string, bool) {
			var ok bool
			p, ok = c.Pool("fin")
			return "", ok
		})
		return p
	}
	for _, step := range []struct {
		inUse bool
		want  string
		out   kube.Outcome
	}{
		{true, "[else.example/keep belfry.dev/in-use]", kube.Done},
		{true, "[else.example/keep belfry.dev/in-use]", kube.Unchanged},
		{false, "[else.example/keep]", kube.Done},
	} {
		out, err := c.SetPoolInUse(ctx, pool(), step.inUse)
		if out != step.out || err != nil {
			t.Errorf("in use %v: %v, %v; want %v", step.inUse, out, err, step.out)
		}
		p, err := pools.Get(ctx, "fin", metav1.GetOptions{})
		b.must(err)
		if got := fmt.Sprint(p.Finalizers); got != step.want {
			t.Errorf("in use %v: finalizers %s, want %s", step.inUse, got, step.want)
		}
	}
	old := pool()
	_, err = pools.Patch(ctx, "fin", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	b.must(err)
	if out, err := c.SetPoolInUse(ctx, old, true); out != kube.Stale {
		t.Errorf("a list that somebody changed is written: %v, %v", out, err)
	}
	b.must(pools.Delete(ctx, "fin", metav1.DeleteOptions{}))
}

func TestGossipSecretIsCreatedOnceAndRestoredWithItsKey(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	core := b.clients(controller).Core
	secrets := b.admin.CoreV1().Secrets(lab.Namespace)
	t.Cleanup(func() { _ = secrets.Delete(context.WithoutCancel(ctx), "belfry-gossip", metav1.DeleteOptions{}) })
	var wg sync.WaitGroup
	replica := func() (g *kube.GossipSecret, lead func() (end func())) {
		g = kube.NewGossipSecret(core, lab.Namespace, "belfry-gossip", nil, slog.New(slog.DiscardHandler))
		g.SetSpeakers(nil)
		wg.Go(func() { g.Run(ctx) })
		return g, func() func() {
			leading, end := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { g.Keep(leading); close(done) }()
			return func() { end(); <-done }
		}
	}
	key := func() gossipkey.Key {
		t.Helper()
		ring, _, err := kube.NewGossipKeys(b.clients(speaker).Core, lab.Namespace, "belfry-gossip", slog.New(slog.DiscardHandler)).Begin(ctx, func(context.Context) {})
		b.must(err)
		return ring.Send
	}
	_, lead := replica()
	_, leadToo := replica()
	end := lead()
	first := key()
	if first.None() {
		t.Error("the key is nothing")
	}
	for range 2 {
		begun := time.Now()
		b.must(secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{}))
		if key() != first {
			t.Fatal("it is restored with another key")
		}
		t.Logf("restored within %v", time.Since(begun))
	}
	// The other replica has seen it, too, and restores what is deleted while nobody leads.
	end()
	b.must(secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{}))
	end = leadToo()
	if key() != first {
		t.Error("the other replica restores another key")
	}
	// What somebody writes instead stands, and is what is restored then.
	s, err := secrets.Get(ctx, "belfry-gossip", metav1.GetOptions{})
	b.must(err)
	s.Data[objects.GossipKey] = []byte("a text that a person has chosen, and long")
	_, err = secrets.Update(ctx, s, metav1.UpdateOptions{})
	b.must(err)
	second := key()
	if second == first {
		t.Error("what a person has written is undone")
	}
	b.eventually("the watch has seen it", func() (string, bool) {
		_ = secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{})
		is := key()
		return "", is == second
	})
	end()
}

// Three speakers follow the Secret on a real API server, one of them late; the controller
// takes its steps by what they say, with the rights that it has.
func TestTheGossipKeyIsChangedStepByStepWhenThatIsAskedFor(t *testing.T) {
	b := newBench(t)
	b.patience = time.Minute
	ctx := t.Context()
	secrets := b.admin.CoreV1().Secrets(lab.Namespace)
	t.Cleanup(func() { _ = secrets.Delete(context.WithoutCancel(ctx), "belfry-gossip", metav1.DeleteOptions{}) })
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	ctx, end := context.WithCancel(ctx)
	t.Cleanup(end)
	events := kube.NewRecorder(b.clients(controller).Core, "belfry.dev/controller", "a", slog.New(slog.DiscardHandler))
	wg.Go(func() { events.Run(ctx) })
	keeping := func() (g *kube.GossipSecret, stop func()) {
		g = kube.NewGossipSecret(b.clients(controller).Core, lab.Namespace, "belfry-gossip", events, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(ctx)
		wg.Go(func() { g.Run(ctx) })
		wg.Go(func() { g.Keep(ctx) })
		return g, stop
	}
	var mu sync.Mutex
	uses := map[string]gossipkey.Use{}
	var g *kube.GossipSecret
	report := func() {
		mu.Lock()
		defer mu.Unlock()
		var all []gossipkey.Speaker
		for node, u := range uses {
			all = append(all, gossipkey.Speaker{Node: node, Use: u})
		}
		// Whoever runs hears whoever runs.
		for _, a := range uses {
			for _, b := range uses {
				if !a.Takes(b.Sends) {
					t.Errorf("%v does not accept what %v sends", a, b)
				}
			}
		}
		g.SetSpeakers(all)
	}
	g, stop := keeping()
	report()
	held := make(chan struct{})
	for _, node := range []string{"n1", "n2", "late"} {
		keys := kube.NewGossipKeys(b.clients(speaker).Core, lab.Namespace, "belfry-gossip", slog.New(slog.DiscardHandler))
		_, use, err := keys.Begin(ctx, func(context.Context) {})
		b.must(err)
		mu.Lock()
		uses[node] = use
		mu.Unlock()
		wg.Go(func() {
			if node == "late" {
				select {
				case <-held:
				case <-ctx.Done():
					return
				}
			}
			keys.Run(ctx, func(_ gossipkey.Ring, use gossipkey.Use) {
				mu.Lock()
				uses[node] = use
				mu.Unlock()
				report()
			})
		})
	}
	report()
	state := func() gossipkey.State {
		s, err := secrets.Get(ctx, "belfry-gossip", metav1.GetOptions{})
		b.must(err)
		is, err := objects.GossipSecret(s)
		b.must(err)
		return is
	}
	first := state().Key
	_, err := secrets.Patch(ctx, "belfry-gossip", types.MergePatchType, []byte(`{"metadata":{"annotations":{"belfry.dev/rotate":"1"},"labels":{"kept":"yes"}}}`), metav1.PatchOptions{})
	b.must(err)
	var second gossipkey.Key
	b.eventually("the next key is there, and two accept it", func() (string, bool) {
		second = state().Next
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(uses), !second.None() && uses["n1"].Takes(second.ID()) && uses["n2"].Takes(second.ID())
	})
	if is := state(); is.Key != first || is.Next != second {
		t.Fatalf("it does not wait for the third: %+v", is)
	}
	close(held)
	b.eventually("the new key is the only one", func() (string, bool) {
		is := state()
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(is, uses), is.Key == second && is.Previous.None() && uses["late"].Sends == second.ID() && !uses["late"].Takes(first.ID())
	})
	s, err := secrets.Get(ctx, "belfry-gossip", metav1.GetOptions{})
	b.must(err)
	if s.Labels["kept"] != "yes" || s.Annotations[objects.AnnotationRotated] != "1" || len(s.Data) != 1 {
		t.Errorf("labels %v, annotations %v, %d texts", s.Labels, s.Annotations, len(s.Data))
	}
	b.eventually("it is told", func() (string, bool) {
		list, err := b.admin.EventsV1().Events(lab.Namespace).List(ctx, metav1.ListOptions{})
		b.must(err)
		var got []string
		for _, e := range list.Items {
			if e.Regarding.Kind == "Secret" && e.Regarding.Name == "belfry-gossip" {
				got = append(got, e.Reason)
			}
		}
		return fmt.Sprint(got), slices.Contains(got, "GossipKeyChanging") && slices.Contains(got, "GossipKeyChanged")
	})
	// A controller that never saw the Secret finds none: it does not invent a key beside
	// that which the speakers have.
	stop()
	b.must(secrets.Delete(ctx, "belfry-gossip", metav1.DeleteOptions{}))
	g, _ = keeping()
	report()
	b.eventually("a third key has taken the place of the lost one", func() (string, bool) {
		s, err := secrets.Get(ctx, "belfry-gossip", metav1.GetOptions{})
		if err != nil {
			return err.Error(), false
		}
		is, err := objects.GossipSecret(s)
		b.must(err)
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(is, uses), !is.Key.None() && is.Key != second && len(is.Lost) == 0 && uses["n1"].Sends == is.Key.ID() && len(uses["n1"].Accepts) == 1
	})
}

func TestEventsAreWrittenAsGiven(t *testing.T) {
	b := newBench(t)
	s := b.create("web")
	r := kube.NewRecorder(b.clients(controller).Core, "belfry.dev/controller", "a", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	ref := (&objects.Service{Service: lb.Service{Key: b.key("web"), UID: string(s.UID)}, Version: s.ResourceVersion}).Reference()
	r.Record(kube.Event{About: ref, Reason: "IPAllocated", Action: "Allocate", Note: "assigned 192.0.2.1"})
	r.Record(kube.Event{About: ref, Warning: true, Reason: "IPOrphaned", Action: "Allocate", Note: strings.Repeat("ä", 2000)})
	b.eventually("both events are there", func() (string, bool) {
		list, err := b.admin.EventsV1().Events(b.ns).List(ctx, metav1.ListOptions{})
		b.must(err)
		var got []string
		for _, e := range list.Items {
			got = append(got, fmt.Sprintf("%s %s %s by %s", e.Type, e.Reason, e.Regarding.Name, e.ReportingController))
		}
		slices.Sort(got)
		want := []string{"Normal IPAllocated web by belfry.dev/controller", "Warning IPOrphaned web by belfry.dev/controller"}
		return fmt.Sprint(got), slices.Equal(got, want)
	})
	cancel()
	<-done
	if r.Dropped() != 0 {
		t.Errorf("%d dropped", r.Dropped())
	}
}

func TestRightsAreTheLeast(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.create("web")
	for _, account := range []string{controller, speaker} {
		config, err := b.lab.Cluster.ConfigFor(ctx, lab.Namespace, account)
		b.must(err)
		core := kubernetes.NewForConfigOrDie(config)
		for what, try := range map[string]func() error{
			"read a secret elsewhere": func() error { _, err := core.CoreV1().Secrets(b.ns).Get(ctx, "x", metav1.GetOptions{}); return err },
			"list all secrets":        func() error { _, err := core.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); return err },
			"change a secret": func() error {
				_, err := core.CoreV1().Secrets(lab.Namespace).Patch(ctx, map[string]string{controller: "peer", speaker: "belfry-gossip"}[account], types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
				return err
			},
			"change a service's spec": func() error {
				_, err := core.CoreV1().Services(b.ns).Patch(ctx, "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
				return err
			},
			"delete a service": func() error { return core.CoreV1().Services(b.ns).Delete(ctx, "web", metav1.DeleteOptions{}) },
			"read pods":        func() error { _, err := core.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); return err },
			"change a node": func() error {
				_, err := core.CoreV1().Nodes().Patch(ctx, "node1", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
				return err
			},
			"take another lease": func() error {
				_, err := core.CoordinationV1().Leases(lab.Namespace).Get(ctx, "other", metav1.GetOptions{})
				return err
			},
		} {
			if err := try(); !apierrors.IsForbidden(err) {
				t.Errorf("%s may %s: %v", account, what, err)
			}
		}
	}
}

var timing = lease.Timing{Lease: 3 * time.Second, Renew: 2 * time.Second, Retry: 200 * time.Millisecond}

func (b *bench) election(identity string) *lease.Election {
	config, err := b.lab.Cluster.ConfigFor(b.Context(), lab.Namespace, controller)
	b.must(err)
	clients, err := kube.NewClients(config, "test")
	b.must(err)
	return &lease.Election{
		Client: clients.Core.Leases(lab.Namespace), Namespace: lab.Namespace, Name: "belfry-controller",
		Identity: identity, Timing: timing, Log: slog.New(slog.DiscardHandler),
	}
}

func TestLeaseIsGivenBackAfterTheLastWrite(t *testing.T) {
	b := newBench(t)
	var working atomic.Int32
	work := func(started chan<- struct{}, finish <-chan struct{}) func(context.Context) error {
		return func(ctx context.Context) error {
			if working.Add(1) > 1 {
				t.Error("two lead at once")
			}
			close(started)
			<-ctx.Done()
			<-finish // the last write takes its time
			working.Add(-1)
			return nil
		}
	}
	a, other := b.election("a"), b.election("b")
	ctx, stop := context.WithCancel(t.Context())
	aStarted, aFinish, aDone := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { aDone <- a.Run(ctx, work(aStarted, aFinish)) }()
	<-aStarted
	if !a.Held() {
		t.Error("the leader does not hold the lease")
	}
	otherCtx, otherStop := context.WithCancel(t.Context())
	otherStarted, otherFinish, otherDone := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	close(otherFinish)
	go func() { otherDone <- other.Run(otherCtx, work(otherStarted, otherFinish)) }()
	stop()
	// While the last write is under way the lease goes on being renewed.
	select {
	case <-otherStarted:
		t.Fatal("the successor leads while the leader still works")
	case <-time.After(timing.Lease + timing.Retry):
	}
	close(aFinish)
	begun := time.Now()
	<-otherStarted
	if waited := time.Since(begun); waited > timing.Renew {
		t.Errorf("the successor waited %v for a lease that was given back", waited)
	}
	if a.Held() {
		t.Error("the lease is held after it was given back")
	}
	if err := <-aDone; err != nil {
		t.Error(err)
	}
	otherStop()
	if err := <-otherDone; err != nil {
		t.Error(err)
	}
}

func TestLeaderIsFencedBeforeAnotherMayStart(t *testing.T) {
	b := newBench(t)
	e := b.election("a")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	terms := make(chan context.Context, 8)
	done := make(chan error, 1)
	go func() {
		done <- e.Run(ctx, func(ctx context.Context) error {
			terms <- ctx
			<-ctx.Done()
			return nil
		})
	}()
	first := <-terms
	apiserver, err := b.lab.Processes.Process("kube-apiserver")
	b.must(err)
	b.must(apiserver.Pause())
	defer apiserver.Resume()
	paused := time.Now()
	b.eventually("the leader does not trust its lease any more", func() (string, bool) { return "held", !e.Held() })
	if after := time.Since(paused); after > timing.Renew+100*time.Millisecond {
		t.Errorf("fenced %v after the API server fell silent, want %v at most", after, timing.Renew)
	}
	<-first.Done()
	b.must(apiserver.Resume())
	<-terms // it leads again
	if !e.Held() {
		t.Error("the lease is not held in the second term")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLeaseTimingMustLeaveAGap(t *testing.T) {
	for _, c := range []struct {
		timing lease.Timing
		wrong  int
	}{
		{lease.Timing{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}, 0},
		{lease.Timing{Lease: 10 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}, 1},
		{lease.Timing{Lease: 10 * time.Second, Renew: 2 * time.Second, Retry: 2 * time.Second}, 1},
		{lease.Timing{Lease: 500 * time.Millisecond, Renew: 200 * time.Millisecond, Retry: 0}, 2},
		{lease.Timing{}, 4},
	} {
		wrong := 0
		if err := c.timing.Validate(); err != nil {
			wrong = strings.Count(err.Error(), "\n") + 1
		}
		if wrong != c.wrong {
			t.Errorf("%+v has %d problems, want %d", c.timing, wrong, c.wrong)
		}
	}
}
