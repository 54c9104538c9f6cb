package controller_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/kube/client/versioned"
	"github.com/belfrylb/belfry/internal/objects"
)

// These tests run the real binary against a real API server, as the
// ServiceAccount and with the RBAC that are shipped.

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) {
	code := shared.Run(m)
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// built is the directory of the binary, once there is one.
var built string

// binary is the controller, built with the race detector once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "belfry-controller-test")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "belfry-controller")
	out, err := exec.Command("go", "build", "-race", "-o", path, "../../cmd/controller").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// A world is the API server with nothing of ours in it but what a test makes.
type world struct {
	*testing.T
	lab  *lab.Lab
	core kubernetes.Interface
	own  versioned.Interface
}

func newWorld(t *testing.T) *world {
	l := shared.Get(t)
	if err := l.Product.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := l.Cluster.AdminConfig()
	config.ContentType = "application/vnd.kubernetes.protobuf" // there are thousands of Services in some tests
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	w := &world{T: t, lab: l, core: kubernetes.NewForConfigOrDie(config), own: versioned.NewForConfigOrDie(l.Cluster.AdminConfig())}
	w.clear(t.Context())
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	if _, err := w.core.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The controllers of the test are gone by now.
		w.clear(context.WithoutCancel(t.Context()))
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// clear removes all Services and pools, finalizers or not.
func (w *world) clear(ctx context.Context) {
	services, err := w.core.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	w.must(err)
	inParallel(len(services.Items), func(i int) {
		if name := services.Items[i].Name; name != "kubernetes" {
			if err := w.core.CoreV1().Services("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				w.Errorf("delete %s: %v", name, err)
			}
		}
	})
	pools, err := w.own.BelfryV1beta1().IPAddressPools().List(ctx, metav1.ListOptions{})
	w.must(err)
	for _, p := range pools.Items {
		_, err := w.own.BelfryV1beta1().IPAddressPools().Patch(ctx, p.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		w.must(err)
		if err := w.own.BelfryV1beta1().IPAddressPools().Delete(ctx, p.Name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			w.must(err) // with its finalizer it may have gone
		}
	}
	w.must(w.own.BelfryV1beta1().L2Advertisements().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	w.must(w.core.EventsV1().Events("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// A replica is a controller process.
type replica struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// start starts a controller. It is killed when the test ends.
func (w *world) start(name string, flags ...string) *replica {
	w.Helper()
	path, err := binary()
	w.must(err)
	kubeconfig, err := w.lab.Cluster.KubeconfigFor(w.Context(), lab.Namespace, "belfry-controller")
	w.must(err)
	r := &replica{log: filepath.Join(w.TempDir(), name+".log"), exited: make(chan struct{})}
	log, err := os.Create(r.log)
	w.must(err)
	defer log.Close()
	r.cmd = exec.Command(path, append([]string{
		"--kubeconfig=" + kubeconfig, "--identity=" + name, "--log-level=debug",
		"--health-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0",
		"--lease-duration=3s", "--renew-deadline=2s", "--retry-period=250ms",
	}, flags...)...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	w.must(r.cmd.Start())
	go func() {
		_ = r.cmd.Wait()
		close(r.exited)
	}()
	w.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.exited
		text, _ := os.ReadFile(r.log)
		if strings.Contains(string(text), "DATA RACE") {
			w.Errorf("%s has a data race", name)
		}
		if w.Failed() {
			w.Logf("log of %s:\n%s", name, tail(string(text), 60))
		}
	})
	return r
}

func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// stop ends a controller as the kubelet does and waits until it is gone.
func (w *world) stop(r *replica) {
	w.Helper()
	w.must(r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.exited:
	case <-time.After(10 * time.Second):
		w.Fatal("the controller does not stop within 10 s of SIGTERM")
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		w.Fatalf("the controller ended with %d", code)
	}
}

// eventually waits until a fact holds; look returns what it sees otherwise.
func (w *world) eventually(what string, look func() (seen string, ok bool)) {
	w.Helper()
	w.within(15*time.Second, what, look)
}

func (w *world) within(d time.Duration, what string, look func() (seen string, ok bool)) {
	w.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		seen, ok := look()
		if ok {
			return
		}
		select {
		case <-deadline:
			w.Fatalf("not within %v: %s; seen last: %s", d, what, seen)
		case <-tick.C:
		}
	}
}

// pool creates a pool.
func (w *world) pool(name string, edit func(*v1beta1.IPAddressPoolSpec), addresses ...v1beta1.AddressRange) {
	w.Helper()
	p := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.IPAddressPoolSpec{Addresses: addresses}}
	if edit != nil {
		edit(&p.Spec)
	}
	_, err := w.own.BelfryV1beta1().IPAddressPools().Create(w.Context(), p, metav1.CreateOptions{})
	w.must(err)
}

// expose creates a Service of type LoadBalancer.
func (w *world) expose(name string, edit ...func(*corev1.Service)) *corev1.Service {
	w.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			AllocateLoadBalancerNodePorts: new(bool),
			Ports:                         []corev1.ServicePort{{Port: 80}},
		},
	}
	for _, e := range edit {
		e(s)
	}
	out, err := w.core.CoreV1().Services("default").Create(w.Context(), s, metav1.CreateOptions{})
	w.must(err)
	return out
}

func dualStack(s *corev1.Service) {
	policy := corev1.IPFamilyPolicyRequireDualStack
	s.Spec.IPFamilyPolicy = &policy
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[key] = value
	}
}

func (w *world) service(name string) *corev1.Service {
	w.Helper()
	s, err := w.core.CoreV1().Services("default").Get(w.Context(), name, metav1.GetOptions{})
	w.must(err)
	return s
}

// patch patches a Service as its owner does.
func (w *world) patch(name, body string) {
	w.Helper()
	_, err := w.core.CoreV1().Services("default").Patch(w.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	w.must(err)
}

// told describes what a Service has been told, in one line: of our record only that it
// has other addresses.
func told(s *corev1.Service) string {
	var out []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	addresses := strings.Join(out, ", ")
	if pool, ok := s.Annotations["belfry.dev/pool"]; ok {
		out = append(out, "pool="+pool)
	}
	for _, c := range s.Status.Conditions {
		if t := objects.ConditionType(c.Type); t == objects.ConditionPlaced || t == objects.ConditionRecorded && recorded(c.Message) == addresses {
			continue
		}
		out = append(out, fmt.Sprintf("%s=%s/%s", strings.TrimPrefix(c.Type, "belfry.dev/"), c.Status, c.Reason))
	}
	return strings.Join(out, " ")
}

// becomes waits until a Service has been told just that.
func (w *world) becomes(name, want string) {
	w.Helper()
	w.eventually(fmt.Sprintf("service %s is told %q", name, want), func() (string, bool) {
		got := told(w.service(name))
		return got, got == want
	})
}

func (w *world) status(pool string) v1beta1.IPAddressPoolStatus {
	w.Helper()
	p, err := w.own.BelfryV1beta1().IPAddressPools().Get(w.Context(), pool, metav1.GetOptions{})
	w.must(err)
	return p.Status
}

// writes are those of the controllers since a mark, Leases left out.
func (w *world) writes(since lab.AuditMark) []string {
	w.Helper()
	events, err := w.lab.Cluster.Writes(since, lab.Namespace)
	w.must(err)
	var out []string
	for _, e := range events {
		out = append(out, e.String())
	}
	return out
}

func (w *world) mark() lab.AuditMark {
	w.Helper()
	m, err := w.lab.Cluster.AuditNow()
	w.must(err)
	return m
}

// settled waits until the controllers have written nothing for a while longer
// than any pause between writes of theirs.
func (w *world) settled() {
	w.Helper()
	mark, since := w.mark(), time.Now()
	w.within(30*time.Second, "the controllers are done writing", func() (string, bool) {
		writes := w.writes(mark)
		if len(writes) > 0 {
			mark, since = w.mark(), time.Now()
		}
		return strings.Join(writes[max(0, len(writes)-3):], "; "), time.Since(since) > 2*time.Second
	})
}

func (w *world) events(service string) []string {
	w.Helper()
	list, err := w.core.EventsV1().Events("default").List(w.Context(), metav1.ListOptions{})
	w.must(err)
	slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	var out []string
	for _, e := range list.Items {
		// Kubernetes tells of Services too: its repair of clusterIPs may meet a new one.
		if e.Regarding.Name == service && strings.HasPrefix(e.ReportingController, "belfry") {
			out = append(out, e.Reason+": "+e.Note)
		}
	}
	return out
}

func TestAllocatesBothFamiliesInOneWrite(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/28", "2001:db8::/120")
	w.start("a")
	w.eventually("the gossip secret exists", func() (string, bool) {
		s, err := w.core.CoreV1().Secrets(lab.Namespace).Get(t.Context(), "belfry-gossip", metav1.GetOptions{})
		return fmt.Sprint(err), err == nil && len(s.Data["key"]) == 44
	})
	mark := w.mark()
	w.expose("web", dualStack)
	w.becomes("web", "192.0.2.0 2001:db8:: pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	w.expose("six", func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })
	w.becomes("six", "2001:db8::1 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	for _, in := range w.service("web").Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			t.Errorf("ingress %s has ipMode %v, want VIP", in.IP, in.IPMode)
		}
	}
	w.eventually("the pool is in use and counted", func() (string, bool) {
		p, err := w.own.BelfryV1beta1().IPAddressPools().Get(t.Context(), "edge", metav1.GetOptions{})
		w.must(err)
		ok := p.Status.IPv4 != nil && *p.Status.IPv4 == v1beta1.AddressCount{Total: 16, Assigned: 1, Available: 15} &&
			p.Status.IPv6 != nil && *p.Status.IPv6 == v1beta1.AddressCount{Total: 256, Assigned: 2, Available: 254} &&
			slices.Equal(p.Finalizers, []string{"belfry.dev/in-use"}) && slices.Equal(p.Status.Addresses, []string{"192.0.2.0/28", "2001:db8::/120"})
		return fmt.Sprintf("%+v %+v", p.Finalizers, p.Status), ok
	})
	w.settled()
	for _, name := range []string{"web", "six"} {
		n := 0
		for _, e := range w.writes(mark) {
			if strings.Contains(e, "/services/"+name+"/status") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("service %s took %d writes, want 1:\n%s", name, n, strings.Join(w.writes(mark), "\n"))
		}
	}
	want := []string{
		"IPAllocated: assigned 192.0.2.0 from pool edge and 2001:db8:: from pool edge",
		"NotAnnounced: no L2Advertisement or BGPAdvertisement selects the pool and every Service that uses the address",
	}
	if got := w.events("web"); !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// addresses lists who holds which.
func (w *world) addresses() map[netip.Addr][]string {
	w.Helper()
	list, err := w.core.CoreV1().Services("default").List(w.Context(), metav1.ListOptions{})
	w.must(err)
	out := map[netip.Addr][]string{}
	for _, s := range list.Items {
		for _, in := range s.Status.LoadBalancer.Ingress {
			a := netip.MustParseAddr(in.IP)
			out[a] = append(out[a], s.Name)
		}
	}
	return out
}

func equal(a, b map[netip.Addr][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if !slices.Equal(v, b[k]) {
			return false
		}
	}
	return true
}

// assigned waits until so many Services have an address.
func (w *world) assigned(n int) {
	w.Helper()
	w.within(60*time.Second, fmt.Sprintf("%d services have addresses", n), func() (string, bool) {
		list, err := w.core.CoreV1().Services("default").List(w.Context(), metav1.ListOptions{})
		w.must(err)
		have := 0
		for _, s := range list.Items {
			if len(s.Status.LoadBalancer.Ingress) > 0 {
				have++
			}
		}
		return fmt.Sprint(have), have == n
	})
}

func TestLeaderKilledInTheMiddleLosesAndDuplicatesNothing(t *testing.T) {
	const services = 1000
	w := newWorld(t)
	w.pool("edge", nil, "10.64.0.0/20")
	a := w.start("a")
	w.leads("a")
	w.start("b")

	// Whoever watches sees every address that was ever shown.
	watch, err := w.core.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	w.must(err)
	moved := make(chan string, services)
	go func() {
		defer close(moved)
		shown := map[string]string{}
		for e := range watch.ResultChan() {
			s, ok := e.Object.(*corev1.Service)
			if !ok {
				return
			}
			for _, in := range s.Status.LoadBalancer.Ingress {
				if old, ok := shown[s.Name]; ok && old != in.IP {
					moved <- fmt.Sprintf("%s moved from %s to %s", s.Name, old, in.IP)
				}
				shown[s.Name] = in.IP
			}
		}
	}()

	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < services; i += 2 {
				w.expose(fmt.Sprintf("web-%d", i))
				if i == services*4/10 {
					_ = a.cmd.Process.Kill() // in the middle of whatever it does
				}
			}
		})
	}
	wg.Wait()
	w.assigned(services)
	for a, holders := range w.addresses() {
		if len(holders) > 1 {
			t.Errorf("%v belongs to %v", a, holders)
		}
	}
	watch.Stop()
	for m := range moved {
		t.Error(m)
	}
}

func TestLeaderThatWakesAfterALongPauseWritesNothing(t *testing.T) {
	// What it was about to write when it was stopped is written by its successor, and
	// addresses that it knows to be taken have gone to others.
	const services = 300
	w := newWorld(t)
	w.pool("edge", nil, "10.64.0.0/23", "2001:db8::/119")
	a := w.start("a")
	w.leads("a")
	w.start("b")
	for i := range services {
		w.expose(fmt.Sprintf("web-%d", i), dualStack)
		if i == services/2 {
			w.must(a.cmd.Process.Signal(syscall.SIGSTOP)) // in the middle of whatever it does
		}
	}
	w.leads("b")
	w.assigned(services)
	for i := range services / 4 {
		w.must(w.core.CoreV1().Services("default").Delete(t.Context(), fmt.Sprintf("web-%d", i), metav1.DeleteOptions{}))
		w.expose(fmt.Sprintf("late-%d", i), dualStack)
	}
	w.assigned(services)
	w.settled()
	before, mark := w.addresses(), w.mark()
	w.must(a.cmd.Process.Signal(syscall.SIGCONT))
	w.eventually("a knows that it leads no more", func() (string, bool) {
		text, err := os.ReadFile(a.log)
		w.must(err)
		return tail(string(text), 3), strings.Contains(string(text), "leadership ended")
	})
	w.settled()
	events, err := w.lab.Cluster.Writes(mark, lab.Namespace)
	w.must(err)
	for _, e := range events {
		// A request that had left before may be answered now, and what it did before
		// it may still tell; below, whether that is told once.
		if refused := e.ResponseStatus.Code == 409 || e.ResponseStatus.Code == 404; !refused && e.ObjectRef.Resource != "events" {
			t.Errorf("written after the pause: %s", e)
		}
	}
	list, err := w.core.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
	w.must(err)
	times, allocated := map[string]int{}, map[string]int{}
	for _, e := range list.Items {
		if !strings.HasPrefix(e.ReportingController, "belfry") {
			continue
		}
		times[fmt.Sprintf("%s %s %s", e.Regarding.UID, e.Reason, e.Note)]++
		if e.Reason == "IPAllocated" {
			allocated[string(e.Regarding.UID)]++
		}
	}
	for what, n := range times {
		if n > 1 {
			t.Errorf("told %d times: %s", n, what)
		}
	}
	if len(allocated) == 0 {
		t.Error("no Event tells of an address")
	}
	for service, n := range allocated {
		if n > 1 {
			t.Errorf("Service %s was told %d times that it has an address", service, n)
		}
	}
	if after := w.addresses(); !equal(before, after) {
		t.Errorf("addresses are %v, were %v", after, before)
	}
}

func TestServiceThatLeavesIsCleanedAndItsAddressFreed(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.7/32", "2001:db8::7/128")
	a := w.start("a")
	w.expose("web", dualStack)
	w.becomes("web", "192.0.2.7 2001:db8::7 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	w.expose("next", dualStack)
	w.becomes("next", "Allocated=False/Exhausted")

	w.patch("web", `{"spec":{"type":"ClusterIP"}}`)
	w.becomes("web", "")
	w.becomes("next", "192.0.2.7 2001:db8::7 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")

	// Also when it leaves while nobody watches.
	w.settled()
	w.stop(a)
	w.patch("next", `{"spec":{"type":"ClusterIP"}}`)
	if got := told(w.service("next")); !strings.Contains(got, "pool=edge") {
		t.Fatalf("next lost its marks by itself: %s", got)
	}
	w.start("b")
	w.becomes("next", "")
	w.patch("web", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"other.example/lb"}}`)
	w.patch("next", `{"spec":{"type":"LoadBalancer"}}`)
	w.becomes("next", "192.0.2.7 2001:db8::7 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	w.becomes("web", "")
}

func TestServiceOfAnotherClassIsReleased(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.7/32")
	a := w.start("a", "--lb-class=belfry.dev/lb")
	class := "belfry.dev/lb"
	w.expose("plain")
	w.expose("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class })
	w.becomes("web", "192.0.2.7 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	if got := told(w.service("plain")); got != "" {
		t.Errorf("a service without a class is told %q by a controller that has one", got)
	}
	w.stop(a)
	w.start("b")
	w.becomes("web", "")
	w.becomes("plain", "192.0.2.7 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	if got := w.events("web"); len(got) != 3 || !strings.HasPrefix(got[2], "IPReleased: ") {
		t.Errorf("events of the released service: %v", got)
	}
}

func TestTwoInstallationsLeaveEachOthersServicesAlone(t *testing.T) {
	const namespace, class = "belfry-second", "second.example/lb"
	w := newWorld(t)
	w.second(namespace)
	w.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
	a := w.start("a")
	b := w.start("b", "--namespace="+namespace, "--lb-class="+class)
	classed := func(s *corev1.Service) { c := class; s.Spec.LoadBalancerClass = &c }
	const served = "pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement"
	w.expose("one", dualStack)
	w.becomes("one", "192.0.2.0 2001:db8:: "+served)
	w.expose("two", dualStack, classed)
	w.becomes("two", "192.0.2.1 2001:db8::1 "+served)
	w.expose("three", classed, annotated("belfry.dev/loadBalancerIPs", "192.0.2.0"))
	w.becomes("three", "Allocated=False/AddressInUse")
	w.settled()
	mark := w.mark()
	// Neither when they start anew, nor when one that served another class does:
	// that one releases what is its own, and nothing else.
	w.stop(a)
	w.start("a2")
	w.leads("a2")
	w.settled()
	if writes := w.writes(mark); len(writes) > 0 {
		t.Errorf("written:\n%s", strings.Join(writes, "\n"))
	}
	w.stop(b)
	w.start("b2", "--namespace="+namespace, "--lb-class=third.example/lb")
	w.becomes("two", "")
	w.becomes("one", "192.0.2.0 2001:db8:: "+served)
	for _, c := range w.service("two").Status.Conditions {
		if strings.HasPrefix(c.Type, "belfry.dev/") {
			t.Errorf("a released service still has %s: %s", c.Type, c.Message)
		}
	}
}

// second prepares a namespace for a second installation.
func (w *world) second(namespace string) {
	w.Helper()
	ctx := w.Context()
	_, err := w.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		w.must(err)
	}
	role, err := w.core.RbacV1().Roles(lab.Namespace).Get(ctx, "belfry-controller", metav1.GetOptions{})
	w.must(err)
	binding, err := w.core.RbacV1().RoleBindings(lab.Namespace).Get(ctx, "belfry-controller", metav1.GetOptions{})
	w.must(err)
	role.ObjectMeta = metav1.ObjectMeta{Name: role.Name}
	binding.ObjectMeta = metav1.ObjectMeta{Name: binding.Name}
	if _, err = w.core.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		w.must(err)
	}
	if _, err = w.core.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		w.must(err)
	}
}

func TestDeletedPoolStaysUntilItsLastAddressIsFree(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/28")
	w.start("a")
	w.expose("web")
	w.becomes("web", "192.0.2.0 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	w.eventually("the pool has the finalizer", func() (string, bool) {
		p, err := w.own.BelfryV1beta1().IPAddressPools().Get(t.Context(), "edge", metav1.GetOptions{})
		w.must(err)
		return fmt.Sprint(p.Finalizers), len(p.Finalizers) == 1
	})
	_, err := w.own.BelfryV1beta1().IPAddressPools().Patch(t.Context(), "edge", types.MergePatchType, []byte(`{"spec":{"drain":true}}`), metav1.PatchOptions{})
	w.must(err)
	w.becomes("web", "192.0.2.0 pool=edge Allocated=True/Kept Announced=False/NoAdvertisement")
	w.must(w.own.BelfryV1beta1().IPAddressPools().Delete(t.Context(), "edge", metav1.DeleteOptions{}))
	w.becomes("web", "192.0.2.0 pool=edge Allocated=True/Orphaned Announced=False/NoAdvertisement")
	w.eventually("both are told in Events", func() (string, bool) {
		told := slices.DeleteFunc(w.events("web"), func(e string) bool { return !strings.HasPrefix(e, "IPOrphaned: ") })
		return strings.Join(told, "\n"), len(told) == 2 && told[0] != told[1]
	})
	w.expose("late")
	w.eventually("a new service gets nothing from a pool that goes", func() (string, bool) {
		s := w.service("late")
		return told(s), len(s.Status.Conditions) > 0 && len(s.Status.LoadBalancer.Ingress) == 0
	})
	w.must(w.core.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	w.eventually("the pool is gone", func() (string, bool) {
		_, err := w.own.BelfryV1beta1().IPAddressPools().Get(t.Context(), "edge", metav1.GetOptions{})
		return fmt.Sprint(err), apierrors.IsNotFound(err)
	})
}

func TestBadObjectsHarmNothingElse(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/30")
	w.pool("twin", nil, "192.0.2.0-192.0.2.9")
	w.start("a")
	w.expose("nonsense", annotated("belfry.dev/loadBalancerIPs", "not-an-address"))
	w.expose("torn", annotated("metallb.io/loadBalancerIPs", "192.0.2.1"), func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.2" })
	w.expose("lost", annotated("belfry.dev/address-pool", "nowhere"))
	w.expose("web")
	w.becomes("nonsense", "Allocated=False/BadRequest")
	w.becomes("torn", "Allocated=False/BadRequest")
	w.becomes("lost", "Allocated=False/PoolNotFound")
	w.becomes("web", "192.0.2.0 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
	w.eventually("the younger pool says that it overlaps, and serves the rest", func() (string, bool) {
		s := w.status("twin")
		return fmt.Sprintf("%+v", s), len(s.Conditions) == 1 && s.Conditions[0].Reason == "Overlaps" && s.Conditions[0].Status == "False" &&
			strings.Contains(s.Conditions[0].Message, "edge") && s.IPv4 != nil && s.IPv4.Total == 6
	})
	w.eventually("an event about the younger pool", func() (string, bool) {
		got := w.events("twin")
		return fmt.Sprintf("%q", got), len(got) == 1 && strings.HasPrefix(got[0], "Overlaps: ")
	})
	if got := w.events("edge"); len(got) != 0 {
		t.Errorf("events about the older pool: %q", got)
	}
	// Mending a request is enough.
	w.patch("nonsense", `{"metadata":{"annotations":{"belfry.dev/loadBalancerIPs":"192.0.2.3"}}}`)
	w.becomes("nonsense", "192.0.2.3 pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
}

func TestOtherWritersAreNoObstacle(t *testing.T) {
	const services = 40
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/24")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range services {
		w.expose(fmt.Sprintf("web-%d", i))
	}
	// Another controller that keeps changing what we write to.
	for half := range 2 {
		wg.Go(func() {
			for n := 0; ; n++ {
				for i := half; i < services; i += 2 {
					select {
					case <-stop:
						return
					default:
					}
					w.patch(fmt.Sprintf("web-%d", i), fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, n))
				}
			}
		})
	}
	w.start("a")
	w.assigned(services)
	close(stop)
	wg.Wait()
	seen := w.addresses()
	if len(seen) != services {
		t.Errorf("%d addresses for %d services", len(seen), services)
	}
	w.settled()
	if after := w.addresses(); !equal(seen, after) {
		t.Errorf("addresses changed afterwards: %v, before %v", after, seen)
	}
}

func TestTwoLeadersAgreeInTheEnd(t *testing.T) {
	// Two replicas under one identity both believe to lead: the worst that can
	// happen. Each write is safe by its precondition, and an address that went
	// to two Services returns to the older.
	const services = 200
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0-192.0.3.20")
	w.start("a", "--identity=twin")
	w.start("b", "--identity=twin")
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < services; i += 4 {
				w.expose(fmt.Sprintf("web-%d", i))
			}
		})
	}
	wg.Wait()
	w.within(30*time.Second, "every service has an address of its own", func() (string, bool) {
		var twice []string
		all := w.addresses()
		for a, holders := range all {
			if len(holders) > 1 {
				twice = append(twice, fmt.Sprintf("%v: %v", a, holders))
			}
		}
		return fmt.Sprintf("%d addresses, %v", len(all), twice), len(all) == services && len(twice) == 0
	})
	w.settled()
	if n := len(w.addresses()); n != services {
		t.Errorf("%d addresses for %d services", n, services)
	}
}

func TestSilentAPIServerLosesAndDuplicatesNothing(t *testing.T) {
	// Writes are under way when it falls silent: nobody knows whether they
	// happened. It stays so for longer than the Lease lasts.
	const services = 300
	w := newWorld(t)
	w.pool("edge", nil, "2001:db8:5::/120", "192.0.2.0/24", "198.51.100.0/24")
	w.start("a")
	w.start("b")
	apiserver, err := w.lab.Processes.Process("kube-apiserver")
	w.must(err)
	defer apiserver.Resume()
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < services; i += 2 {
				if i == services/2 {
					w.must(apiserver.Pause())
					time.AfterFunc(4*time.Second, func() { _ = apiserver.Resume() })
				}
				w.expose(fmt.Sprintf("web-%d", i))
			}
		})
	}
	wg.Wait()
	w.assigned(services)
	if n := len(w.addresses()); n != services {
		t.Errorf("%d addresses for %d services", n, services)
	}
}

func TestServiceThatCannotBeWrittenHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/28")
	policies := w.core.AdmissionregistrationV1()
	fail := admissionregistrationv1.Fail
	_, err := policies.ValidatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				ResourceNames: []string{"refused", "refused-2", "refused-3"},
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"services/status"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "false", Message: "nobody may"}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	unrefuse := func(ctx context.Context) {
		_ = policies.ValidatingAdmissionPolicyBindings().Delete(ctx, "refuse", metav1.DeleteOptions{})
		_ = policies.ValidatingAdmissionPolicies().Delete(ctx, "refuse", metav1.DeleteOptions{})
	}
	t.Cleanup(func() { unrefuse(context.WithoutCancel(t.Context())) })
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "refuse", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	w.expose("refused")
	w.eventually("the policy is in force", func() (string, bool) {
		_, err := w.core.CoreV1().Services("default").Patch(t.Context(), "refused", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{}, "status")
		return fmt.Sprint(err), err != nil
	})
	w.expose("refused-2")
	w.expose("refused-3")
	mark := w.mark()
	w.start("a")
	for i := range 5 {
		name := fmt.Sprintf("web-%d", i)
		w.expose(name)
		w.eventually("a service beside the refused one is served", func() (string, bool) {
			s := w.service(name)
			return told(s), len(s.Status.LoadBalancer.Ingress) == 1
		})
	}
	for _, name := range []string{"refused", "refused-2", "refused-3"} {
		attempts := 0
		for _, e := range w.writes(mark) {
			if strings.Contains(e, "/services/"+name+"/status") {
				attempts++
			}
		}
		if attempts == 0 || attempts > 3 {
			t.Errorf("%d attempts at %s", attempts, name)
		}
	}
	unrefuse(t.Context())
	for _, name := range []string{"refused", "refused-2", "refused-3"} {
		w.eventually(name+" has what was meant for it", func() (string, bool) {
			got := told(w.service(name))
			return got, strings.HasPrefix(got, "192.0.2.") && strings.HasSuffix(got, " pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement")
		})
	}
}
