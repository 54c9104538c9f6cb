package controller_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// A term as leader: how it begins, what ends it, and what it survives.

func TestAServiceThatMakesThePassPanicIsSetAside(t *testing.T) {
	for _, fault := range []controller.Fault{controller.OnSight, controller.BesidePools, controller.BesideNodes} {
		t.Run(string(fault), func(t *testing.T) { inBubble(t, func(b *bubble) { setAside(b, fault) }) })
	}
}

func setAside(b *bubble, fault controller.Fault) {
	b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
	b.lead(func(c *controller.Controller) { c.Fault("fault", fault) })
	faulty := func(s *corev1.Service) { s.Labels = map[string]string{"fault": ""} }
	b.expose("web")
	b.quiet()
	b.expose("faulty", faulty)
	b.expose("alike", faulty)
	b.passes(time.Minute)
	b.shows("faulty", "Allocated=False/BadRequest")
	b.shows("alike", "Allocated=False/BadRequest")
	b.expose("late")
	b.passes(time.Minute)
	b.shows("late", "192.0.2.1 2001:db8::1 "+waits)
	// One that holds an address keeps it.
	b.edit("web", faulty)
	b.passes(time.Minute)
	b.shows("web", "192.0.2.0 2001:db8:: pool=edge Allocated=True/BadRequest Announced=False/NoAdvertisement")
	// It is served again once it has changed.
	mended := func(s *corev1.Service) { s.Labels = nil }
	b.edit("faulty", mended)
	b.edit("web", mended)
	b.passes(time.Minute)
	b.shows("faulty", "192.0.2.2 2001:db8::2 "+waits)
	b.shows("web", "192.0.2.0 2001:db8:: "+waits)
	b.shows("alike", "Allocated=False/BadRequest")
	for _, name := range []string{"faulty", "alike", "web"} {
		if n := strings.Count(b.log.String(), "set aside until it changes\" service=default/"+name); n != 1 {
			// Not a second time when our own write of its condition is seen.
			b.Errorf("the log tells %d times that %s is set aside", n, name)
		}
	}
}

func TestAPanicThatNoServiceExplainsEndsTheTerm(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		var ended error
		b.leads(func(err error) { ended = err }, func(c *controller.Controller) { c.Fault("fault", controller.OnceAndNoMore) })
		b.expose("web", func(s *corev1.Service) { s.Labels = map[string]string{"fault": ""} })
		b.passes(time.Minute)
		if ended == nil || !strings.Contains(ended.Error(), "a fault over web") {
			t.Errorf("it ended with %v", ended)
		}
		if strings.Contains(b.log.String(), "set aside") || b.metric("belfry_controller_leader") != 0 {
			t.Errorf("it goes on:\n%s", b.log)
		}
	})
}

// A failure is an answer to some reads, and when they were tried.
type failure struct {
	trials
	code atomic.Int32 // 0 once it succeeds
}

// failsToRead has the API server answer with an error to those who ask for pages of
// Services, by a field selector.
func (b *bubble) failsToRead(selector string) *failure {
	f, began := &failure{}, time.Now()
	f.code.Store(http.StatusServiceUnavailable)
	ask := func(r *http.Request) *http.Response {
		q := r.URL.Query()
		if q.Get("fieldSelector") != selector || q.Get("limit") == "" || q.Get("resourceVersion") != "" || f.code.Load() == 0 {
			return nil
		}
		f.note(began)
		return apitest.Answer(int(f.code.Load()), apitest.Refusal(int(f.code.Load()), metav1.StatusReasonServiceUnavailable))
	}
	b.reads.Store(&ask)
	return f
}

func TestALeaderAdoptsBeforeItAllocatesHoweverLongThatTakes(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.expose("web")
		read := b.failsToRead("spec.type=LoadBalancer")
		b.lead()
		b.passes(time.Minute)
		b.wrote()
		ms := time.Millisecond
		if got, want := read.pauses()[:8], []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms}; !slices.Equal(got, want) {
			t.Errorf("it is tried again after %v, want %v", got, want)
		}
		if !strings.Contains(b.log.String(), "cannot read the Services to adopt") {
			t.Errorf("nobody is told why nothing happens:\n%s", b.log)
		}
		read.code.Store(0)
		b.passes(5 * time.Second)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
	})
}

func TestWhoStopsLeadingWhileItReadsSaysNothing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		ask := func(r *http.Request) *http.Response {
			if r.URL.Query().Get("limit") != "" && r.URL.Query().Get("resourceVersion") == "" {
				<-r.Context().Done()
			}
			return nil
		}
		b.reads.Store(&ask)
		stop := b.lead()
		stop()
		if strings.Contains(b.log.String(), "cannot read") {
			t.Errorf("the log has:\n%s", b.log)
		}
	})
}

// A pass that panics ends all that the term has begun, also what would never end by
// itself.
func TestATermThatPanicsWaitsForNoLeftovers(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		read := b.failsToRead("spec.type!=LoadBalancer")
		b.lead(func(c *controller.Controller) { c.Fault("fault", controller.OnSight) })
		b.expose("faulty", func(s *corev1.Service) { s.Labels = map[string]string{"fault": ""} })
		b.passes(time.Minute)
		b.expose("web")
		b.passes(time.Minute)
		b.shows("faulty", "Allocated=False/BadRequest")
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
		if len(read.times()) == 0 {
			t.Error("nobody looked for leftovers")
		}
	})
}

func TestAWriteThatPanicsIsOneThatIsRefused(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.lead()
		b.passes(time.Minute)
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Name == "web" {
				panic("a fault over its writing")
			}
			return nil
		})
		b.expose("web")
		b.quiet()
		b.expose("other")
		b.passes(time.Minute)
		b.shows("web", "")
		b.shows("other", "192.0.2.1 2001:db8::1 "+waits)
		if !strings.Contains(b.log.String(), "write failed") || !strings.Contains(b.log.String(), "a fault over its writing") {
			t.Errorf("the log has:\n%s", b.log)
		}
		if n := b.metric("belfry_controller_writes_total", "kind=service", "outcome=refused"); n < 3 || n > 5 {
			t.Errorf("%v writes were refused in a minute", n)
		}
		b.api.Before(nil)
		b.passes(5 * time.Minute)
		b.shows("web", "192.0.2.0 2001:db8:: "+waits)
	})
}

func TestEveryKindAndOutcomeOfAWriteIsCountedFromZero(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.lead()
		for _, kind := range []string{
			"service", "service-cleanup", "pool", "pool-finalizer",
			"l2advertisement", "bgppeer", "bgpadvertisement", "bfdprofile", "community",
		} {
			for _, outcome := range []string{"unchanged", "done", "stale", "gone", "refused", "busy", "unknown", "fenced"} {
				if got := b.metric("belfry_controller_writes_total", "kind="+kind, "outcome="+outcome); got != 0 {
					t.Errorf("%s %s: %v", kind, outcome, got)
				}
			}
		}
	})
}

// What a leader did before it was told to end is told, although nobody leads any more
// when its last writes return, and although the Events wait for others.
func TestWhatTheLastWritesDidIsToldByWhoMadeThem(t *testing.T) {
	for _, slow := range []time.Duration{0, 200 * time.Millisecond} {
		inBubble(t, func(b *bubble) {
			b.pool("edge", nil, "192.0.2.0/28", "2001:db8::/124")
			b.api.Before(func(w apitest.Write) *metav1.Status {
				switch w.Resource {
				case "services":
					time.Sleep(time.Second) // virtual
				case "events":
					time.Sleep(slow)
				}
				return nil
			})
			stop := b.lead()
			var want []string
			for _, name := range []string{"a", "b", "c", "d"} {
				b.expose(name)
				want = append(want, "Normal IPAllocated Service "+name, "Warning NotAnnounced Service "+name)
			}
			b.passes(500 * time.Millisecond)
			b.told()
			stop()
			b.tells(want...)
		})
	}
}

// An API server that answers no more holds nobody up.
func TestEventsThatCannotBeToldAreCountedAtTheEnd(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/28", "2001:db8::/124")
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource == "events" {
				return apitest.Refusal(503, metav1.StatusReasonServiceUnavailable)
			}
			return nil
		})
		stop := b.lead()
		for _, name := range []string{"a", "b", "c", "d"} {
			b.expose(name)
		}
		b.quiet()
		began := time.Now()
		stop()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it takes %v to end", took)
		}
		if n := b.metric("belfry_controller_events_dropped_total"); n != 8 {
			t.Errorf("%v Events are counted as dropped, want 8", n)
		}
	})
}
