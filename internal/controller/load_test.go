package controller_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
)

// A history is what somebody sees who watches all Services: every state that
// any of them was ever in, in the order in which the API server put them.
type history struct {
	mu sync.Mutex
	// shown are the addresses of each Service, by UID; names and keys are its
	// name and sharing key.
	shown       map[types.UID][]netip.Addr
	names, keys map[types.UID]string
	holders     map[netip.Addr][]types.UID
	wrong       []string
}

// record watches until the test ends. Whatever is there already is not seen
// before it changes.
func (w *world) record() *history {
	w.Helper()
	list, err := w.core.CoreV1().Services("default").List(w.Context(), metav1.ListOptions{})
	w.must(err)
	h := &history{
		shown: map[types.UID][]netip.Addr{}, names: map[types.UID]string{}, keys: map[types.UID]string{},
		holders: map[netip.Addr][]types.UID{},
	}
	for i := range list.Items {
		h.see(watch.Added, &list.Items[i])
	}
	events, err := w.core.CoreV1().Services("default").Watch(w.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	w.must(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range events.ResultChan() {
			s, ok := e.Object.(*corev1.Service)
			h.mu.Lock()
			if ok {
				h.see(e.Type, s)
			} else {
				h.wrong = append(h.wrong, fmt.Sprintf("the watch broke: %+v", e.Object))
			}
			h.mu.Unlock()
		}
	}()
	w.Cleanup(func() {
		events.Stop()
		<-ended
	})
	return h
}

// see takes note of a state: an address that a Service has it keeps, and two
// Services never have the same unless they share it.
func (h *history) see(what watch.EventType, s *corev1.Service) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	var now []netip.Addr
	for _, in := range s.Status.LoadBalancer.Ingress {
		now = append(now, netip.MustParseAddr(in.IP))
	}
	before := h.shown[s.UID]
	if what == watch.Deleted {
		now = nil
		delete(h.shown, s.UID)
	} else {
		h.shown[s.UID], h.names[s.UID], h.keys[s.UID] = now, s.Name, s.Annotations["belfry.dev/allow-shared-ip"]
		if len(before) > 0 && !slices.Equal(before, now) {
			h.wrong = append(h.wrong, fmt.Sprintf("%s moved from %v to %v", s.Name, before, now))
		}
	}
	for _, a := range before {
		h.holders[a] = slices.DeleteFunc(h.holders[a], func(u types.UID) bool { return u == s.UID })
		if len(h.holders[a]) == 0 {
			delete(h.holders, a)
		}
	}
	for _, a := range now {
		for _, other := range h.holders[a] {
			if key := h.keys[s.UID]; key == "" || key != h.keys[other] {
				h.wrong = append(h.wrong, fmt.Sprintf("%v belongs to %s while %s has it", a, s.Name, h.names[other]))
			}
		}
		h.holders[a] = append(h.holders[a], s.UID)
	}
}

// served counts the Services there are, and those of them that have addresses.
func (h *history) served() (there, have int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, addresses := range h.shown {
		if len(addresses) > 0 {
			have++
		}
	}
	return len(h.shown), have
}

// check reports what was wrong with anything seen until now.
func (w *world) check(h *history) {
	w.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wrong) > 0 {
		w.Errorf("%d times:\n%s", len(h.wrong), strings.Join(h.wrong[:min(len(h.wrong), 10)], "\n"))
	}
}

// inParallel does something for 0 to n-1, a few at a time.
func inParallel(n int, do func(i int)) {
	var wg sync.WaitGroup
	const clients = 8
	for first := range clients {
		wg.Go(func() {
			for i := first; i < n; i += clients {
				do(i)
			}
		})
	}
	wg.Wait()
}

// leads waits until a replica is the leader.
func (w *world) leads(identity string) {
	w.Helper()
	w.eventually(identity+" leads", func() (string, bool) {
		l, err := w.core.CoordinationV1().Leases(lab.Namespace).Get(w.Context(), "belfry-controller", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "no lease", false
		}
		w.must(err)
		holder := ptr.Deref(l.Spec.HolderIdentity, "nobody")
		return holder + " leads", holder == identity
	})
}

func TestRestartWithTwoThousandServicesWritesNothing(t *testing.T) {
	const services = 2000
	w := newWorld(t)
	w.advertise()
	w.pool("edge", func(s *v1beta1.IPAddressPoolSpec) { s.Retention = "1h" }, "198.18.0.0/19", "2001:db8::/64")
	w.pool("small", func(s *v1beta1.IPAddressPoolSpec) { s.AutoAssign = new(bool) }, "192.0.2.0/29")
	h := w.record()
	a := w.start("a")
	inParallel(services, func(i int) {
		var edits []func(*corev1.Service)
		if i%5 == 0 {
			edits = append(edits, dualStack)
		}
		if i%7 == 0 { // the two of a pair have different ports, and one address
			edits = append(edits, annotated("belfry.dev/allow-shared-ip", fmt.Sprint("pair-", i/14)), func(s *corev1.Service) { s.Spec.Ports[0].Port += int32(i / 7 % 2) })
		}
		w.expose(fmt.Sprintf("web-%d", i), edits...)
	})
	// History must survive, too: a freed address that is reserved, a Service that
	// waits, and one whose pool has shrunk away from under it.
	w.expose("orphan", annotated("belfry.dev/loadBalancerIPs", "192.0.2.6"))
	w.within(60*time.Second, "all have addresses", func() (string, bool) {
		there, have := h.served()
		return fmt.Sprintf("%d of %d", have, there), there == services+1 && have == there
	})
	w.edit("small", func(s *v1beta1.IPAddressPoolSpec) { s.Addresses = []v1beta1.AddressRange{"192.0.2.0/30"} })
	w.expose("stray", annotated("belfry.dev/loadBalancerIPs", "203.0.113.9"))
	freed := w.service("web-51").Status.LoadBalancer.Ingress[0].IP
	w.must(w.core.CoreV1().Services("default").Delete(t.Context(), "web-51", metav1.DeleteOptions{}))
	w.becomes("orphan", "192.0.2.6 pool=small Allocated=True/Orphaned Announced=False/NoEndpoint")
	w.becomes("stray", "Allocated=False/AddressNotInPool")
	w.within(60*time.Second, "the free list of the pool says that web-51 freed "+freed, func() (string, bool) {
		at := w.status("edge").Freed
		return fmt.Sprintf("%+v", at), len(at) == 1 && at[0].Address == freed && at[0].Service == "default/web-51"
	})
	w.settled()

	mark := w.mark()
	w.must(a.cmd.Process.Kill())
	<-a.exited
	w.start("b")
	w.leads("b")
	w.settled()
	if writes := w.writes(mark); len(writes) > 0 {
		t.Errorf("a converged world is written to:\n%s", strings.Join(writes[:min(len(writes), 20)], "\n"))
	}
	if there, have := h.served(); there != services+1 || have != services {
		t.Errorf("%d of %d services have addresses, want %d and all but stray", have, there, services+1)
	}
	// And it is at work, with all of that in mind: a newcomer gets an address that
	// nobody has and nobody comes back for, who comes back gets the old one.
	mark = w.mark()
	w.expose("late")
	w.expose("web-51")
	for _, name := range []string{"late", "web-51"} {
		w.eventually("a new service is served", func() (string, bool) {
			s := w.service(name)
			return told(s), len(s.Status.LoadBalancer.Ingress) == 1
		})
	}
	if got := w.service("web-51").Status.LoadBalancer.Ingress[0].IP; got != freed {
		t.Errorf("web-51 is back and has %s, not %s, which is reserved for it", got, freed)
	}
	w.settled()
	for _, e := range w.writes(mark) {
		if strings.Contains(e, "/services/") && !strings.Contains(e, "/services/late/") && !strings.Contains(e, "/services/web-51/") {
			t.Errorf("a service is written to that has nothing to do with it: %s", e)
		}
	}
	w.check(h)
}

// edit changes a pool as its owner does.
func (w *world) edit(name string, edit func(*v1beta1.IPAddressPoolSpec)) {
	w.Helper()
	for {
		p, err := w.own.BelfryV1beta1().IPAddressPools().Get(w.Context(), name, metav1.GetOptions{})
		w.must(err)
		edit(&p.Spec)
		if _, err = w.own.BelfryV1beta1().IPAddressPools().Update(w.Context(), p, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			w.must(err)
			return
		}
	}
}

// remove deletes a pool and reports whether it is gone at once.
func (w *world) remove(name string) (gone bool) {
	w.Helper()
	pools := w.own.BelfryV1beta1().IPAddressPools()
	if err := pools.Delete(w.Context(), name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		w.must(err)
	}
	_, err := pools.Get(w.Context(), name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		w.must(err)
	}
	return err != nil
}

func TestEditsOfPoolsUnderLoadMoveNothing(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	w.pool("edge", nil, "198.18.0.0/25", "2001:db8::/120")
	w.pool("next", nil, "198.18.1.0/26", "2001:db8:1::/122")
	w.start("a")
	h := w.record()

	// The load: Services of all kinds come, and half of them go again. They must
	// not all find room at any time.
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() {
		stop()
		wg.Wait()
	}()
	for client := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := func(i int) string { return fmt.Sprintf("web-%d-%d", client, i) }
				var edits []func(*corev1.Service)
				switch i % 6 {
				case 1:
					edits = append(edits, dualStack)
				case 2, 3:
					edits = append(edits, annotated("belfry.dev/allow-shared-ip", fmt.Sprint("pair-", client, i/6)), func(s *corev1.Service) { s.Spec.Ports[0].Port += int32(i % 2) })
				case 4:
					edits = append(edits, annotated("belfry.dev/address-pool", "next"))
				}
				w.expose(name(i), edits...)
				if gone := i - 30; gone >= 0 && gone%2 == 0 {
					if err := w.core.CoreV1().Services("default").Delete(t.Context(), name(gone), metav1.DeleteOptions{}); err != nil {
						t.Errorf("delete %s: %v", name(gone), err)
					}
				}
			}
		})
	}

	// The edits. They wait for some Services to come and go in between. What is
	// removed stays as long as it is used; two pools of a round have the same
	// addresses for a while.
	type spec = v1beta1.IPAddressPoolSpec
	type ranges = []v1beta1.AddressRange
	for _, edit := range []func(){
		func() { w.edit("edge", func(s *spec) { s.Addresses = ranges{"198.18.0.64/26", "2001:db8::80/121"} }) },
		func() {
			w.edit("next", func(s *spec) { s.ExcludeAddresses = ranges{"198.18.1.0/28", "2001:db8:1::/125"} })
		},
		func() { w.pool("split", nil, "198.18.0.0-198.18.0.63", "2001:db8::-2001:db8::7f") }, // what edge had
		func() { w.edit("next", func(s *spec) { s.Drain = true }) },
		func() { w.edit("edge", func(s *spec) { s.Addresses = append(s.Addresses, "198.18.2.0/28") }) },
		func() { w.pool("renamed", nil, "198.18.1.0/26", "2001:db8:1::/122") }, // next is to be called so
		func() { w.remove("next") },
		func() { w.remove("split") },
		func() { w.edit("edge", func(s *spec) { s.Addresses = ranges{"198.18.0.0/25", "2001:db8::/120"} }) },
		func() {
			w.edit("renamed", func(s *spec) {
				s.ServiceAllocation = &v1beta1.ServiceAllocation{Namespaces: []v1beta1.NamespaceName{"elsewhere"}}
			})
		},
		func() {
			if w.remove("next") {
				w.pool("next", nil, "198.18.1.0/26", "2001:db8:1::/122")
			}
		},
		func() { w.edit("renamed", func(s *spec) { s.ServiceAllocation = nil }) },
		func() {
			w.edit("edge", func(s *spec) { s.ExcludeAddresses = ranges{"198.18.0.0/26", "2001:db8::/121"} })
		},
	} {
		edit()
		before := h.passed()
		w.eventually("services come and go", func() (string, bool) { n := h.passed() - before; return fmt.Sprint(n), n >= 30 })
	}
	stop()
	wg.Wait()
	w.settled()
	w.check(h)
	w.consistent()
	if there, have := h.served(); have < 50 || there < have {
		t.Errorf("%d of %d services have addresses: that is no load", have, there)
	}
}

// passed counts the Services that were ever seen.
func (h *history) passed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.names)
}

// consistent checks that all objects, at rest, tell the same story, by what is
// simple enough to be beyond doubt.
func (w *world) consistent() {
	w.Helper()
	services, err := w.core.CoreV1().Services("default").List(w.Context(), metav1.ListOptions{})
	w.must(err)
	pools, err := w.own.BelfryV1beta1().IPAddressPools().List(w.Context(), metav1.ListOptions{})
	w.must(err)
	covers := func(p *v1beta1.IPAddressPool, a netip.Addr) bool {
		pool, _ := config.Pool(p)
		return slices.ContainsFunc(pool.Ranges, func(r lb.AddressRange) bool { return r.Contains(a) })
	}
	byName := map[string]*v1beta1.IPAddressPool{}
	for i := range pools.Items {
		byName[pools.Items[i].Name] = &pools.Items[i]
	}
	used := map[string]map[netip.Addr]bool{}
	for i := range services.Items {
		s := &services.Items[i]
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		reason := ""
		for _, c := range s.Status.Conditions {
			if c.Type == "belfry.dev/Allocated" {
				reason = c.Reason
			}
		}
		names := strings.Split(s.Annotations["belfry.dev/pool"], ",")
		orphan := false
		for n, in := range s.Status.LoadBalancer.Ingress {
			a := netip.MustParseAddr(in.IP)
			name := names[min(n, len(names)-1)]
			p := byName[name]
			if p == nil {
				w.Errorf("%s has %v from pool %q, which is not there though it is used", s.Name, a, name)
				continue
			}
			if used[name] == nil {
				used[name] = map[netip.Addr]bool{}
			}
			used[name][a] = true
			orphan = orphan || p.DeletionTimestamp != nil || !covers(p, a)
			if !slices.Contains(p.Finalizers, "belfry.dev/in-use") {
				w.Errorf("pool %s has no finalizer though %s has %v of it", name, s.Name, a)
			}
		}
		if have := len(s.Status.LoadBalancer.Ingress); have > 0 && (reason == "Orphaned") != orphan {
			w.Errorf("%s is %s; that its pool covers its addresses no more is %v: %s", s.Name, reason, orphan, told(s))
		} else if have == 0 && slices.Contains([]string{"", "Allocated", "Orphaned", "Kept"}, reason) {
			w.Errorf("%s has no address and is %q", s.Name, reason)
		} else if have > 0 && have != len(s.Spec.ClusterIPs) {
			w.Errorf("%s has %d addresses for %d families", s.Name, have, len(s.Spec.ClusterIPs))
		}
	}
	for name, p := range byName {
		var in, out int64
		for a := range maps.Keys(used[name]) {
			if p.DeletionTimestamp != nil || !covers(p, a) {
				out++
			} else {
				in++
			}
		}
		if p.DeletionTimestamp != nil && in+out == 0 {
			w.Errorf("pool %s is still there though it is deleted and nobody uses it", name)
		}
		var assigned, orphaned int64
		for _, c := range []*v1beta1.AddressCount{p.Status.IPv4, p.Status.IPv6} {
			if c != nil {
				assigned, orphaned = assigned+c.Assigned, orphaned+c.Orphaned
			}
		}
		if p.DeletionTimestamp == nil && (orphaned != out) {
			w.Errorf("pool %s counts %d orphans, its services %d", name, orphaned, out)
		}
		w.Logf("pool %s: %d addresses in use, %d of them orphans; its status says %d and %d", name, in+out, out, assigned, orphaned)
	}
}
