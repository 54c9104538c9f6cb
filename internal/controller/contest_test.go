package controller_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// rewrite changes the status of a Service as another writer does.
func (b *bubble) rewrite(name string, ingress ...corev1.LoadBalancerIngress) {
	b.Helper()
	b.edit(name, func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = ingress })
}

func TestAnotherWriterOfAStatusMovesNoService(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		stop := b.lead()
		b.expose("web")
		b.passes(time.Minute)
		const kept = "192.0.2.0 2001:db8:: " + waits
		b.shows("web", kept)
		name := corev1.LoadBalancerIngress{Hostname: "lb.example.com"}
		for _, ingress := range [][]corev1.LoadBalancerIngress{
			nil, {name}, {{IP: "192.0.2.9"}}, {name, {IP: "2001:db8::9"}}, {{IP: "203.0.113.7"}}, {{IP: "2001:db8::"}},
		} {
			b.rewrite("web", ingress...)
			b.passes(time.Minute)
			b.shows("web", kept)
			stop()
			b.rewrite("web", ingress...)
			b.expose("late") // which would be given what is free
			stop = b.lead()
			b.passes(time.Minute)
			b.shows("web", kept)
			b.remove("late")
			b.quiet()
		}
	})
}

// A rival is a writer that answers each write of ours to a Service with its own.
type rival struct {
	*bubble
	name string
	undo func(*corev1.Service)

	mu    sync.Mutex // The controller writes on goroutines of its own.
	after time.Duration
	done  bool
	// writes are ours since it was last asked, and shown those of them that write the
	// addresses.
	writes, shown []time.Time
}

func (b *bubble) rival(name string, undo func(*corev1.Service)) *rival {
	r := &rival{bubble: b, name: name, after: time.Millisecond, undo: undo}
	b.api.Before(func(w apitest.Write) *metav1.Status {
		if w.Resource != "services" || w.Name != name {
			return nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.writes = append(r.writes, time.Now())
		if bytes.Contains(w.Body, []byte(`"loadBalancer"`)) {
			r.shown = append(r.shown, time.Now())
		}
		if after := r.after; !r.done {
			go func() {
				time.Sleep(after) // virtual
				r.act()
			}()
		}
		return nil
	})
	return r
}

// act writes, unless all is as it wants it.
func (r *rival) act() {
	s := r.service(r.name)
	before := s.DeepCopy()
	r.undo(s)
	if !equality.Semantic.DeepEqual(before, s) {
		s.ManagedFields = []metav1.ManagedFieldsEntry{
			{Manager: "belfry-controller", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{}}}`)},
			{Manager: "lb-operator", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{}}}`)},
		}
		apitest.Put(r.api, s)
	}
}

// stop lets it answer no more.
func (r *rival) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
}

// wait sets how long it takes to answer.
func (r *rival) wait(after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after = after
}

// written returns when we wrote since it was last asked.
func (r *rival) written() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := r.writes
	r.writes, r.shown = nil, nil
	return writes
}

// addressed returns when we wrote the addresses, since written was last asked.
func (r *rival) addressed() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.shown)
}

// wrote fails the test unless we wrote so often since it was last asked.
func (r *rival) wrote(what string, want int) {
	r.Helper()
	if writes := r.written(); len(writes) != want {
		r.Errorf("%s: %d writes, want %d: %v; log:\n%s", what, len(writes), want, writes, r.log)
	}
}

func named(s *corev1.Service) {
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
}

func TestAStatusThatAnotherWriterInsistsOnIsContested(t *testing.T) {
	const hidden = "pool=edge Allocated=False/Contested Announced=False/NoAdvertisement"
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	for name, c := range map[string]struct {
		undo  func(*corev1.Service)
		shows string
	}{
		"a name":  {named, " " + hidden},
		"nothing": {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil }, hidden},
		"other addresses": {func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7", IPMode: &vip}}
		}, "203.0.113.7 " + hidden},
		"one of the pool": {func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2001:db8::9", IPMode: &vip}}
		}, "2001:db8::9 " + hidden},
		"a name beside": {func(s *corev1.Service) {
			for _, in := range s.Status.LoadBalancer.Ingress {
				if in.Hostname != "" {
					return
				}
			}
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		}, "192.0.2.0 2001:db8::  pool=edge Allocated=True/Contested Announced=False/NoAdvertisement"},
		"the mode": {func(s *corev1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].IPMode = &proxy
			}
		}, "192.0.2.0 2001:db8:: pool=edge Allocated=True/Contested Announced=False/NoAdvertisement"},
		"ports": {func(s *corev1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].Ports = []corev1.PortStatus{{Port: 80, Protocol: "TCP"}}
			}
		}, "192.0.2.0 2001:db8:: pool=edge Allocated=True/Contested Announced=False/NoAdvertisement"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
				b.lead()
				b.expose("web")
				b.quiet()
				b.expose("beside")
				b.passes(time.Hour)
				b.told()
				r := b.rival("web", c.undo)
				r.act()
				b.passes(30 * time.Second)
				r.wrote("three times, and once that it is contested", 4)
				short := func() string { return strings.ReplaceAll(b.carries("web"), " Recorded=192.0.2.0, 2001:db8::", "") }
				if got := short(); got != c.shows {
					t.Errorf("it shows %q, want %q", got, c.shows)
				}
				message := meta.FindStatusCondition(b.service("web").Status.Conditions, "belfry.dev/Allocated").Message
				if !strings.Contains(message, "field manager lb-operator") || !strings.Contains(message, "keeps 192.0.2.0 and 2001:db8:: from pool edge") {
					t.Errorf("it says %q", message)
				}
				b.tells("Warning AllocationFailed Service web: field manager lb-operator changes")
				if n := b.metric("belfry_services", "reason=Contested", "waiting=false"); n != 1 {
					t.Errorf("%v are counted as contested", n)
				}
				if s := b.poolStatus("edge"); s.IPv4.Assigned != 2 || len(s.Freed) > 0 {
					t.Errorf("pool edge: %+v, freed %v", s.IPv4, s.Freed)
				}

				// It goes on being contested, and is tried ever more rarely.
				b.passes(24 * time.Hour)
				if n := len(r.written()); n < 80 || n > 100 {
					t.Errorf("%d writes in a day", n)
				}
				if got := short(); got != c.shows {
					t.Errorf("after a day it shows %q, want %q", got, c.shows)
				}
				b.shows("beside", "192.0.2.1 2001:db8::1 "+waits)
				b.tells()

				// The other writer stops.
				r.stop()
				b.passes(17 * time.Minute)
				b.shows("web", "192.0.2.0 2001:db8:: "+waits)
				r.written()
				b.passes(48 * time.Hour)
				r.wrote("all is calm", 0)
				if n := b.metric("belfry_services", "reason=Contested", "waiting=false"); n != 0 {
					t.Errorf("%v are still counted as contested", n)
				}
				b.tells()
			})
		})
	}
}

func unconditioned(s *corev1.Service) { s.Status.Conditions = nil }

func emptied(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }

func stripped(s *corev1.Service) {
	delete(s.Annotations, "belfry.dev/pool")
	delete(s.Annotations, "belfry.dev/l2-node")
}

// What else of ours can be removed: whatever it is, no more than three writes within a
// minute are undone, and the address stays the one it was.
func TestNoWriterMakesUsWriteWithoutEndOrMovesAService(t *testing.T) {
	count := 0
	alternate := func(s *corev1.Service) {
		if s.Status.LoadBalancer.Ingress == nil || s.Status.LoadBalancer.Ingress[0].Hostname == "" {
			count++
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: fmt.Sprintf("%c.example.com", 'a'+count%2)}}
		}
	}
	counting := func(s *corev1.Service) {
		if s.Status.LoadBalancer.Ingress == nil || s.Status.LoadBalancer.Ingress[0].Hostname == "" {
			count++
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: fmt.Sprintf("lb-%d.example.com", count)}}
			annotated("lb-operator/count", fmt.Sprint(count))(s)
		}
	}
	for name, c := range map[string]struct {
		undo   func(*corev1.Service)
		after  time.Duration
		writes int // in the first half minute
		event  string
	}{
		"our conditions":     {unconditioned, time.Millisecond, 3, "Warning AllocationFailed Service web: field manager lb-operator undoes what Belfry writes to the status"},
		"the whole status":   {emptied, time.Millisecond, 3, "Warning AllocationFailed Service web: field manager lb-operator changes"},
		"our annotations":    {stripped, time.Millisecond, 3, ""},
		"by two in turn":     {alternate, time.Millisecond, 4, "Warning AllocationFailed Service web: field manager lb-operator changes"},
		"by one that counts": {counting, time.Millisecond, 4, "Warning AllocationFailed Service web: field manager lb-operator changes"},
		"slowly":             {named, 8 * time.Second, 4, "Warning AllocationFailed Service web: field manager lb-operator changes"},
		"at once":            {named, time.Nanosecond, 4, "Warning AllocationFailed Service web: field manager lb-operator changes"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
				b.lead()
				b.expose("web", annotated("belfry.dev/reallocate", "1"))
				b.quiet()
				b.expose("late", annotated("belfry.dev/loadBalancerIPs", "192.0.2.0,2001:db8::")) // which web has
				b.passes(time.Hour)
				b.edit("web", annotated("belfry.dev/reallocate", "2"))
				b.passes(time.Hour)
				const kept = "192.0.2.1 2001:db8::1 pool=edge Allocated=True/Allocated Reallocated=True/Honored Announced=False/NoAdvertisement"
				b.shows("web", kept)
				b.told()
				r := b.rival("web", c.undo)
				r.wait(c.after)
				r.act()
				b.passes(30 * time.Second)
				if c.after < time.Second {
					r.wrote("in half a minute", c.writes)
				}
				b.passes(4 * time.Hour)
				// Three that are undone, one before that stayed for a while, and what is told
				// of both.
				writes := r.written()
				for i := 6; i < len(writes); i++ {
					if span := writes[i].Sub(writes[i-6]); span < time.Minute {
						t.Errorf("seven writes within %v, the last at %v", span, writes[i])
					}
				}
				b.shows("late", "192.0.2.0 2001:db8:: "+waits)
				events := slices.DeleteFunc(slices.Compact(b.told()), func(e string) bool {
					return strings.HasPrefix(e, "Warning NotAnnounced") // with its condition gone, that is told anew
				})
				if c.event == "" && len(events) > 0 || c.event != "" && (len(events) != 1 || !strings.HasPrefix(events[0], c.event)) {
					t.Errorf("the Events are %q", events)
				}
				r.stop()
				b.edit("web", func(s *corev1.Service) { s.Spec.Ports[0].Port++ }) // its owner looks after it
				b.passes(2 * time.Minute)
				b.shows("web", kept)
			})
		})
	}
}

func TestALeaderThatComesAmidAContestKeepsTheAddress(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		stop := b.lead()
		b.expose("web")
		b.passes(time.Minute)
		r := b.rival("web", named)
		r.act()
		for range 5 {
			b.passes(10 * time.Second)
			stop()
			r.written()
			stop = b.lead()
			b.passes(10 * time.Second)
			r.wrote("a new leader", 4)
			if message := meta.FindStatusCondition(b.service("web").Status.Conditions, "belfry.dev/Recorded").Message; message != "192.0.2.0 from edge, 2001:db8:: from edge" {
				t.Errorf("recorded is %q", message)
			}
		}
		// Its owner can still move it.
		b.edit("web", annotated("belfry.dev/reallocate", "1"))
		r.stop()
		b.passes(2 * time.Minute)
		b.shows("web", "192.0.2.1 2001:db8::1 pool=edge Allocated=True/Allocated Reallocated=True/Honored Announced=False/NoAdvertisement")
	})
}

// By mistake: their Services are the same.
func TestTwoInstallationsOfOneClassDoNotWriteAgainstEachOther(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.lead()
		b.expose("web")
		b.passes(time.Minute)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		b.api.Writes()
		b.namespace = "lb-second"
		b.lead()
		b.passes(50 * time.Second)
		n := 0
		for _, w := range b.api.Writes() {
			if w.Resource == "services" {
				n++
			}
		}
		if n > 6 {
			t.Errorf("they write %d times within a minute", n)
		}
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		if !strings.Contains(b.log.String(), "reason=\"the installation of Belfry in namespace ") {
			t.Errorf("the log does not tell:\n%s", b.log)
		}
		b.expose("late")
		b.passes(time.Minute)
		b.shows("late", "192.0.2.1 2001:db8::1 "+waits)
	})
}
