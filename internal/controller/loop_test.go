package controller_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

const waits = "pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement"

func TestNothingIsWrittenByWhoMayNotBeTheLeader(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.held.Store(false)
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.expose("web")
		b.lead()
		b.passes(10 * time.Minute)
		b.wrote()
		b.shows("web", "")
		if b.metric("belfry_controller_writes_total", "kind=service", "outcome=fenced") < 3 {
			t.Error("no write was held back")
		}
		b.held.Store(true)
		b.passes(30 * time.Second)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
	})
}

func TestAServiceIsOneWriteAndAConvergedClusterNone(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		stop := b.lead()
		b.api.Writes()
		b.expose("web")
		b.passes(time.Minute)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		b.wrote("patch services default/web", "patch ipaddresspools edge", "patch ipaddresspools edge") // its finalizer, its status
		b.tells("Normal IPAllocated Service web: assigned 192.0.2.0 from pool edge and 2001:db8:: from pool edge",
			"Warning NotAnnounced Service web: ")
		b.passes(48 * time.Hour)
		b.wrote()
		// The next leader finds everything as it should be.
		stop()
		b.lead()
		b.passes(48 * time.Hour)
		b.wrote()
		b.tells()
	})
}

func TestTheFirstChangeIsActedUponAtOnceAndThoseThatFollowTogether(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.lead()
		b.passes(time.Minute)
		before := b.metric("belfry_controller_pass_seconds")
		for i := range 5 {
			b.expose(fmt.Sprintf("web-%d", i))
			b.passes(0)
			if first := b.carries(fmt.Sprintf("web-%d", i)) != ""; first != (i == 0) {
				t.Errorf("change %d was acted upon at once: %v", i, first)
			}
			b.passes(time.Millisecond)
		}
		b.passes(15 * time.Millisecond) // 20 after the first
		for i := range 5 {
			if b.carries(fmt.Sprintf("web-%d", i)) == "" {
				t.Errorf("web-%d waits for longer than the cool-down", i)
			}
		}
		b.quiet()
		// One pass for the first, one for the others, and one for what each of those
		// two has written.
		if n := b.metric("belfry_controller_pass_seconds") - before; n < 3 || n > 4 {
			t.Errorf("%v passes", n)
		}
	})
}

// Trials are the times at which writes were tried, from the moment of refuse on.
type trials struct {
	mu sync.Mutex
	at []time.Duration
}

func (t *trials) times() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.at)
}

// note takes note of one, now.
func (t *trials) note(began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = append(t.at, time.Since(began).Round(time.Millisecond))
}

// pauses returns the times between them.
func (t *trials) pauses() []time.Duration {
	at := t.times()
	pauses := make([]time.Duration, 0, len(at))
	for i := 1; i < len(at); i++ {
		pauses = append(pauses, at[i]-at[i-1])
	}
	return pauses
}

// refuse has each write of a resource refused, and notes when it was tried.
func (b *bubble) refuse(resource string, status *metav1.Status) *trials {
	out := &trials{}
	start := time.Now()
	b.api.Before(func(w apitest.Write) *metav1.Status {
		if w.Resource != resource {
			return nil
		}
		out.note(start)
		return status
	})
	return out
}

func TestAFailedWriteIsTriedAgainByWhatBecameOfIt(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		code  int
		first []time.Duration // the pauses
		most  time.Duration
	}{
		"refused":   {http.StatusForbidden, []time.Duration{5 * s, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s}, 300 * s},
		"invalid":   {http.StatusUnprocessableEntity, []time.Duration{5 * s, 10 * s}, 300 * s},
		"busy":      {http.StatusServiceUnavailable, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s}, 30 * s},
		"no answer": {http.StatusInternalServerError, []time.Duration{s / 4, s / 2, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s}, 30 * s},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
				b.lead()
				b.passes(time.Minute)
				tried := b.refuse("services", apitest.Refusal(c.code, "InternalError"))
				b.expose("web")
				b.passes(4 * time.Hour)
				at, pauses := tried.times(), tried.pauses()
				if len(pauses) < len(c.first) || !slices.Equal(pauses[:len(c.first)], c.first) || pauses[len(pauses)-1] != c.most {
					t.Fatalf("the pauses are %v", pauses)
				}
				if !strings.Contains(b.log.String(), "write failed") {
					t.Error("the log says nothing")
				}
				// A change of the object is a reason to try at once, and as if for the first
				// time.
				b.edit("web", annotated("note", "changed"))
				b.quiet()
				if len(tried.times()) < len(at)+1 {
					t.Error("the change waits")
				}
				b.passes(c.first[0])
				if n := len(tried.times()); n < len(at)+2 {
					t.Errorf("%d attempts in %v after the change", n-len(at), c.first[0])
				}
				b.api.Before(nil)
				b.passes(c.most)
				b.shows("web", "192.0.2.0 2001:db8:: "+waits)
			})
		})
	}
}

func TestWhatIsRefusedIsToldOnceAndHoldsUpNoOther(t *testing.T) {
	tenant := func(s *corev1.Service) { s.Namespace = "tenant" }
	for name, c := range map[string]struct {
		which func(apitest.Write) bool
		where func(*corev1.Service)
		n     int
	}{
		"one Service":       {func(w apitest.Write) bool { return w.Name == "refused-0" }, func(*corev1.Service) {}, 1},
		"three Services":    {func(w apitest.Write) bool { return strings.HasPrefix(w.Name, "refused-") }, func(*corev1.Service) {}, 3},
		"a whole namespace": {func(w apitest.Write) bool { return w.Namespace == "tenant" }, tenant, 10},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
				b.lead()
				var tried atomic.Int64
				refuse := func(code int, reason metav1.StatusReason) {
					b.api.Before(func(w apitest.Write) *metav1.Status {
						if w.Resource != "services" || !c.which(w) {
							return nil
						}
						tried.Add(1)
						return apitest.Refusal(code, reason)
					})
				}
				told := func(want int, parts ...string) {
					t.Helper()
					for i := range c.n {
						line := func(l string) bool {
							return strings.Contains(strings.TrimSpace(l)+" ", fmt.Sprintf("/refused-%d ", i)) && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(l, p) })
						}
						n := 0
						for l := range strings.Lines(b.log.String()) {
							if line(l) {
								n++
							}
						}
						if n != want {
							t.Errorf("at %v refused-%d is told %d times, want %d: %v", time.Since(b.began), i, n, want, parts)
						}
					}
				}
				refuse(http.StatusForbidden, metav1.StatusReasonForbidden)
				for i := range c.n {
					b.expose(fmt.Sprintf("refused-%d", i), c.where)
					b.expose(fmt.Sprintf("web-%d", i))
				}
				b.passes(time.Second)
				for i := range c.n {
					if got := b.carries(fmt.Sprintf("web-%d", i)); !strings.HasSuffix(got, waits) || !strings.HasPrefix(got, "192.0.2.") {
						t.Errorf("web-%d beside it shows %q", i, got)
					}
				}
				b.passes(2 * time.Hour)
				if per := int(tried.Load()) / c.n; per < 20 || per > 40 {
					t.Errorf("%d attempts at each in two hours", per)
				}
				told(1, "level=WARN", "write failed")
				refuse(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable) // another cause
				b.passes(time.Hour)
				told(2, "level=WARN", "write failed")
				b.api.Before(nil)
				b.passes(10 * time.Minute)
				told(1, "level=INFO", "written after failures")
				told(2, "level=WARN")
				if strings.Contains(b.log.String(), "level=WARN msg=\"write failed\" kind=service object=default/web-") {
					t.Errorf("what is written is told of:\n%s", b.log)
				}
			})
		})
	}
}

func TestAWriteThatCameTooLateIsDecidedAnew(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.lead()
		b.passes(time.Minute)
		// A user changes the Service between its reading and its writing.
		changed := false
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource == "services" && !changed {
				changed = true
				b.edit("web", annotated("belfry.dev/loadBalancerIPs", "192.0.2.3,2001:db8::3"))
			}
			return nil
		})
		b.expose("web")
		b.quiet()
		b.shows("web", "192.0.2.3 2001:db8::3 "+waits)
		if b.metric("belfry_controller_writes_total", "kind=service", "outcome=stale") != 1 {
			t.Error("no write came too late")
		}
	})
}

func TestOneWriteAtATimeForEachObjectAndSixteenInAll(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.lead()
		b.passes(time.Minute)
		var now, most atomic.Int32
		under := map[string]*atomic.Int32{}
		for i := range 40 {
			under[fmt.Sprintf("web-%d", i)] = &atomic.Int32{}
		}
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource != "services" {
				return nil
			}
			if under[w.Name].Add(1) > 1 {
				t.Errorf("two writes of %s", w.Name)
			}
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second) // virtual
			now.Add(-1)
			under[w.Name].Add(-1)
			return nil
		})
		for i := range 40 {
			b.expose(fmt.Sprintf("web-%d", i))
		}
		b.passes(500 * time.Millisecond)
		b.edit("web-0", annotated("belfry.dev/address-pool", "none")) // while a write of it is under way
		b.passes(3500 * time.Millisecond)
		if most.Load() != 16 {
			t.Errorf("%d writes at the same time, want 16", most.Load())
		}
		for i := 1; i < 40; i++ {
			if !strings.Contains(b.carries(fmt.Sprintf("web-%d", i)), "Allocated=True/Allocated") {
				t.Errorf("web-%d shows %q", i, b.carries(fmt.Sprintf("web-%d", i)))
			}
		}
		if got := b.carries("web-0"); !strings.Contains(got, "NoSuchPool") && !strings.Contains(got, "Allocated=True/") {
			t.Errorf("web-0 shows %q", got)
		}
	})
}

func TestAWriteWithoutAnAnswerIsGivenUp(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.lead()
		b.passes(time.Minute)
		tries := 0
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource == "services" {
				if tries++; tries == 1 {
					time.Sleep(6 * time.Second) // virtual; a second longer than writes may take
				}
			}
			return nil
		})
		b.expose("web")
		b.passes(5500 * time.Millisecond)
		b.shows("web", "")
		b.passes(2 * time.Second)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		if b.metric("belfry_controller_writes_total", "kind=service", "outcome=unknown") != 1 {
			t.Error("the first write was not given up")
		}
	})
}

func TestWhoStopsLeadingWaitsForWhatIsUnderWay(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		stop := b.lead()
		b.passes(time.Minute)
		if b.metric("belfry_controller_leader") != 1 {
			t.Error("the leader does not say so")
		}
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource == "services" {
				time.Sleep(2 * time.Second) // virtual
			}
			return nil
		})
		b.expose("web")
		b.passes(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("it stopped after %v, want the second that the write takes", took)
		}
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		if b.metric("belfry_controller_leader") != 0 {
			t.Error("it says that it leads")
		}
	})
}

// By its type, by its class, and by being deleted although somebody's finalizer keeps it:
// it gives its addresses up at once, and with retention finds them again when it is back.
func TestAServiceThatLeavesGivesItsAddressesUpAndFindsThemAgain(t *testing.T) {
	for name, c := range map[string]struct{ leaves, returns func(*bubble) }{
		"type": {
			func(b *bubble) {
				b.edit("web", func(s *corev1.Service) {
					s.Spec.Type = corev1.ServiceTypeClusterIP
					s.Status.LoadBalancer = corev1.LoadBalancerStatus{} // the API server does that
				})
			},
			func(b *bubble) {
				b.edit("web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
			},
		},
		"class": {
			func(b *bubble) {
				b.edit("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") })
			},
			func(b *bubble) { b.edit("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = nil }) },
		},
		"deletion": {
			func(b *bubble) {
				b.edit("web", func(s *corev1.Service) { s.Finalizers = []string{"example.com/keep"} })
				b.quiet()
				b.remove("web")
			},
			func(b *bubble) {
				b.edit("web", func(s *corev1.Service) { s.Finalizers = nil })
				b.quiet()
				b.expose("web")
			},
		},
	} {
		for _, retention := range []v1beta1.Duration{"", "1h"} {
			t.Run(name+" "+string(retention), func(t *testing.T) {
				inBubble(t, func(b *bubble) {
					b.pool("edge", func(s *v1beta1.IPAddressPoolSpec) { s.Retention = retention }, "192.0.2.0/31", "2001:db8::/127")
					b.lead()
					b.expose("web")
					b.passes(time.Minute)
					const first, second = "192.0.2.0 2001:db8:: " + waits, "192.0.2.1 2001:db8::1 " + waits
					b.shows("web", first)
					c.leaves(b)
					b.passes(time.Minute)
					b.shows("web", "")
					b.api.Writes()
					b.passes(time.Hour / 2)
					b.wrote()
					b.expose("late")
					b.passes(time.Minute)
					held, next := first, second
					if retention != "" {
						held, next = second, first
					}
					b.shows("late", held)
					c.returns(b)
					b.passes(time.Minute)
					b.shows("web", next)
				})
			})
		}
	}
}

func TestAServiceThatStopsBeingALoadBalancerIsCleaned(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		stop := b.lead()
		b.expose("watched")
		b.expose("unwatched")
		b.expose("fought")
		b.passes(time.Minute)
		leave := func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			s.Status.LoadBalancer = corev1.LoadBalancerStatus{} // the API server does that
		}
		b.edit("watched", leave)
		b.quiet()
		b.shows("watched", "")
		// While nobody leads nobody watches.
		stop()
		b.edit("unwatched", leave)
		tries := 0
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Name != "fought" {
				return nil
			}
			if tries++; tries == 1 {
				b.edit("fought", annotated("note", "changed")) // between reading and writing
			}
			return nil
		})
		b.lead()
		b.shows("unwatched", "")
		b.edit("fought", leave)
		b.passes(time.Minute)
		b.shows("fought", "")
		for _, name := range []string{"watched", "unwatched", "fought"} {
			for key := range b.service(name).Annotations {
				if strings.HasPrefix(key, "belfry.dev/") {
					t.Errorf("service %s keeps annotation %s", name, key)
				}
			}
		}
		if s := b.poolStatus("edge"); s.IPv4 == nil || s.IPv4.Assigned != 0 || s.IPv6.Assigned != 0 {
			t.Errorf("pool: %+v %+v", s.IPv4, s.IPv6)
		}
		if b.metric("belfry_services", "reason=Allocated", "waiting=false") != 0 {
			t.Error("they are still counted")
		}
	})
}

func TestAPoolIsKeptWhileItIsInUseAndCountedOnceASecond(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.lead()
		b.passes(time.Minute)
		b.api.Writes()
		for i := range 10 {
			b.expose(fmt.Sprintf("web-%d", i))
			b.passes(150 * time.Millisecond)
		}
		b.passes(2 * time.Second)
		n := 0
		for _, w := range b.api.Writes() {
			if w.Resource == "ipaddresspools" {
				n++
			}
		}
		if n < 3 || n > 4 { // the finalizer, and 1.5 seconds of counts
			t.Errorf("the pool was written %d times", n)
		}
		s := b.poolStatus("edge")
		if s.IPv4.Assigned != 10 || s.IPv4.Available != 246 || s.IPv6.Assigned != 10 || judged(s.Conditions) != "Accepted" {
			t.Errorf("pool: %+v %+v %v", s.IPv4, s.IPv6, s.Conditions)
		}
		for state, want := range map[string]float64{"total": 256, "assigned": 10, "available": 246, "reserved": 0, "orphaned": 0} {
			for _, family := range []string{"IPv4", "IPv6"} {
				if got := b.metric("belfry_pool_addresses", "pool=edge", "family="+family, "state="+state); got != want {
					t.Errorf("%s %s: %v, want %v", family, state, got, want)
				}
			}
		}
		pool := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
		b.api.Delete(pool)
		b.passes(time.Minute)
		if _, exists := apitest.Get(b.api, pool); !exists {
			t.Fatal("the pool is gone while it is in use")
		}
		for i := range 10 {
			b.remove(fmt.Sprintf("web-%d", i))
		}
		b.passes(time.Minute)
		if _, exists := apitest.Get(b.api, pool); exists {
			t.Error("the pool stays though nobody uses it")
		}
		if got := b.metric("belfry_pool_addresses", "pool=edge", "family=IPv4", "state=total"); got != -1 {
			t.Errorf("a pool that is gone counts %v addresses", got)
		}
	})
}

func TestAReservationThatEndsWakesWhoWaits(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", func(p *v1beta1.IPAddressPoolSpec) { p.Retention = "1h" }, "192.0.2.1", "2001:db8::1")
		b.lead()
		b.expose("old")
		b.passes(time.Minute)
		b.remove("old")
		b.passes(time.Minute)
		b.expose("new")
		b.passes(58 * time.Minute)
		if got := b.carries("new"); strings.Contains(got, "192.0.2.1") {
			t.Errorf("it has the reserved address: %s", got)
		}
		if got := b.poolStatus("edge").IPv6; got.Reserved != 1 || got.Available != 0 {
			t.Errorf("reserved: %+v", got)
		}
		b.passes(2 * time.Minute)
		b.shows("new", "192.0.2.1 2001:db8::1 "+waits)
		if got := b.poolStatus("edge").IPv6; got.Reserved != 0 || got.Assigned != 1 {
			t.Errorf("in use again: %+v", got)
		}
		b.api.Writes()
		b.passes(time.Hour)
		b.wrote()
	})
}

func TestServicesAreCountedByReasonAndTimed(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/31", "2001:db8::/127")
		b.lead()
		for i := range 3 {
			b.expose(fmt.Sprintf("web-%d", i))
			b.quiet()
		}
		count := func(reason, waiting string, want float64) {
			t.Helper()
			if got := b.metric("belfry_services", "reason="+reason, "waiting="+waiting); got != want {
				t.Errorf("%v services are %s, want %v", got, reason, want)
			}
		}
		count("Allocated", "false", 2)
		count("Exhausted", "true", 1)
		if n := b.metric("belfry_allocation_seconds"); n != 2 {
			t.Errorf("%v allocations were timed, want 2", n)
		}
		b.told()
		b.remove("web-0")
		b.passes(time.Minute)
		count("Allocated", "false", 2)
		count("Exhausted", "true", 0)
		if n := b.metric("belfry_allocation_seconds"); n != 2 {
			t.Errorf("%v allocations were timed: one of a Service that had been told to wait", n)
		}
		b.tells("Normal IPAllocated Service web-2: assigned 192.0.2.0 from pool edge and 2001:db8:: from pool edge",
			"Warning NotAnnounced Service web-2: ")
	})
}

func TestAPoolSaysWhatIsTheClustersAndWhoKeepsItFromGoing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.lead()
		tells := func(want string) {
			t.Helper()
			b.passes(2 * time.Second)
			c := b.poolStatus("edge").Conditions[0]
			if got := fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message); got != want {
				t.Errorf("says %q, want %q", got, want)
			}
		}
		const accepted = "True/Accepted: Acted on as written."
		tells(accepted)
		b.node("node1", func(n *corev1.Node) {
			n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"}}
		})
		tells("False/Overlaps: spec.addresses: Nodes' own addresses are neither handed out nor announced: 192.0.2.1 of node1, 2001:db8::1 of node1.")
		b.node("node1", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"192.0.2.128/25", "fd00::/64"} })
		tells("False/Overlaps: spec.addresses: Pods may have the same addresses, so exclude the networks of Pods: 192.0.2.128-192.0.2.255 of node1.")
		b.node("node1")
		tells(accepted)
		cidr := &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.0.2.0/26", "2001:db8::/112", "no network"}},
		}
		apitest.Put(b.api, cidr)
		tells("False/Overlaps: spec.addresses: Services may have the same addresses as cluster IPs, so exclude the networks of Services: " +
			"192.0.2.0-192.0.2.63 of kubernetes, 2001:db8::-2001:db8::ff of kubernetes.")
		b.api.Delete(cidr)
		tells(accepted)

		b.expose("web")
		b.quiet()
		b.api.Delete(&v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "edge"}})
		tells("False/Deleting: metadata.deletionTimestamp: the pool stays until no Service holds an address of it; these keep theirs until they are " +
			"deleted or moved by a new value of belfry.dev/reallocate: default/web (192.0.2.0), default/web (2001:db8::).")
		b.pool("new", nil, "192.0.2.0/24", "2001:db8::/120")
		b.edit("web", func(s *corev1.Service) { s.Annotations["belfry.dev/reallocate"] = "1" })
		b.passes(2 * time.Second)
		if s, exists := apitest.Get(b.api, &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}); exists {
			t.Errorf("still there: %+v", s.Status)
		}
		b.shows("web", "192.0.2.1 2001:db8::1 pool=new Allocated=True/Allocated Reallocated=True/Honored Announced=False/NoAdvertisement")
	})
}

func TestExternalIPsOfAnotherServiceAreNotHandedOut(t *testing.T) {
	inBubble(t, func(b *bubble) {
		external := func(addresses ...string) func(*corev1.Service) {
			return func(s *corev1.Service) { s.Spec.ExternalIPs = addresses }
		}
		internal := func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }
		b.pool("edge", nil, "192.0.2.0/29", "2001:db8::/125")
		b.expose("inside", internal, external("192.0.2.0", "2001:db8::", "not an address"))
		b.lead()
		b.expose("web", external("192.0.2.1"))
		b.quiet()
		const one = " pool=edge Allocated=True/Allocated" + unannounced
		b.shows("web", "192.0.2.2 2001:db8::1"+one)
		b.edit("web", annotated("belfry.dev/loadBalancerIPs", "192.0.2.1")) // its own
		b.quiet()
		b.shows("web", "192.0.2.1 2001:db8::1"+one)
		b.edit("web", annotated("belfry.dev/loadBalancerIPs", "192.0.2.0"))
		b.quiet()
		b.shows("web", "192.0.2.1 2001:db8::1 pool=edge Allocated=True/AddressInUse"+unannounced)
		// What is in use stays, and what is named no more is free.
		b.edit("inside", external("192.0.2.1", "2001:db8::2"))
		b.quiet()
		b.shows("web", "192.0.2.0 2001:db8::1"+one)
		b.expose("other")
		b.quiet()
		b.shows("other", "192.0.2.2 2001:db8::"+one)
		b.edit("inside", external("192.0.2.2", "2001:db8::"))
		b.passes(2 * time.Second)
		b.shows("other", "192.0.2.2 2001:db8::"+one)
		// Of whatever type and class: one of another class, before and after it gets that.
		foreign := func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") }
		b.expose("foreign", foreign, external("192.0.2.1", "2001:db8::2"))
		b.expose("turned", external("192.0.2.3", "2001:db8::3"), annotated("belfry.dev/address-pool", "none"))
		b.quiet()
		b.edit("turned", foreign, func(s *corev1.Service) { s.Annotations = nil })
		b.expose("port", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, external("192.0.2.4", "2001:db8::4"))
		b.quiet()
		b.expose("late")
		b.quiet()
		b.shows("late", "192.0.2.5 2001:db8::5"+one)
		b.remove("foreign")
		b.edit("turned", external())
		b.quiet()
		b.expose("later")
		b.quiet()
		b.shows("later", "192.0.2.3 2001:db8::2"+one) // web still names 192.0.2.1
		b.shows("turned", "")
	})
}

// An API server that is older than the kind, or RBAC that is.
func TestNetworksOfServicesThatCannotBeReadHoldNothingUp(t *testing.T) {
	for _, status := range []*metav1.Status{
		apitest.Refusal(http.StatusNotFound, metav1.StatusReasonNotFound), apitest.Refusal(http.StatusForbidden, metav1.StatusReasonForbidden),
		apitest.Refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable),
	} {
		t.Run(string(status.Reason), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				ask := func(r *http.Request) *http.Response {
					if !strings.Contains(r.URL.Path, "servicecidrs") {
						return nil
					}
					return apitest.Answer(int(status.Code), status)
				}
				b.reads.Store(&ask)
				b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
				b.expose("web")
				b.lead()
				b.shows("web", "192.0.2.0 2001:db8:: "+waits)
				b.passes(time.Hour)
				want := 0
				if status.Code == http.StatusForbidden {
					want = 1
				}
				if n := strings.Count(b.log.String(), "level=WARN"); n != want {
					t.Errorf("%d warnings, want %d:\n%s", n, want, b.log)
				}
			})
		})
	}
}
