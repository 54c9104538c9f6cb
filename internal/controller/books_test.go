package controller

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
)

// The books of a loop, without a cluster: what it keeps of decisions, of times and of
// writes.

// countingPlanner decides nothing and counts how often it is asked.
type countingPlanner struct {
	*allocator.Planner
	asked int
}

func (p *countingPlanner) Plan(now time.Time) allocator.Result {
	p.asked++
	return allocator.Result{}
}

func bareLoop() (*loop, *countingPlanner) {
	p := &countingPlanner{Planner: allocator.New()}
	l := newLoop(&Controller{
		Options:    Options{Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry(), nil)},
		newPlanner: func() planner { return p },
	})
	return l, p
}

// Whatever is due by time, and however much, the loop rests until the first of it.
func TestTheLoopRestsUntilWhatIsDueFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if l, _ := bareLoop(); l.rest() < time.Hour {
			t.Errorf("nothing is due, and it rests for %v", l.rest())
		}
		for seed := range uint64(2000) {
			rng := rand.New(rand.NewPCG(seed, 1))
			l, _ := bareLoop()
			soonest := time.Duration(-1)
			some := func(enter func(at time.Time)) {
				if in := time.Duration(rng.IntN(100)-10) * time.Second; rng.IntN(4) == 0 {
					if soonest < 0 || in < soonest {
						soonest = max(in, 0)
					}
					enter(time.Now().Add(in))
				}
			}
			some(func(at time.Time) { l.until = at })
			some(func(at time.Time) { l.moving = at })
			some(func(at time.Time) { l.disputing = at })
			some(func(at time.Time) { l.viewing = at })
			some(func(at time.Time) { l.overhauling = at })
			some(func(at time.Time) { l.lookAt(&attempt{}, at) })
			some(func(at time.Time) { l.lookAt(&attempt{}, at) })
			some(func(at time.Time) { l.retells[lb.ServiceKey{Name: "a"}] = at })
			some(func(at time.Time) { l.retells[lb.ServiceKey{Name: "b"}] = at })
			some(func(at time.Time) {
				l.telling, l.told = []*service{{}}, at.Add(-tellPause)
			})
			if soonest < 0 {
				continue
			}
			if got := l.rest(); got != soonest {
				t.Fatalf("seed %d: it rests for %v, something is due in %v", seed, got, soonest)
			}
		}
	})
}

// What time makes due is done once that has come, and nothing else is.
func TestOnlyWhatIsDueIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			in   time.Duration
			done bool
		}{{-time.Second, true}, {0, true}, {1, false}, {time.Hour, false}} {
			at := time.Now().Add(c.in)
			l, plans := bareLoop()
			l.until = at
			l.wake()
			if (plans.asked == 1) != c.done || plans.asked > 1 {
				t.Errorf("a reservation that ends in %v: planned %d times", c.in, plans.asked)
			}
			l, plans = bareLoop()
			l.disputing = at
			l.wake()
			if l.disputing.IsZero() != c.done || l.disputedAt.IsZero() == c.done || plans.asked > 0 {
				t.Errorf("contradictions are due in %v: %v, looked for at %v", c.in, l.disputing, l.disputedAt)
			}
			l, _ = bareLoop()
			l.moving = at
			l.wake()
			if l.moving.IsZero() != c.done {
				t.Errorf("the next step is due in %v: %v", c.in, l.moving)
			}
			l, _ = bareLoop()
			settled := 0
			a := &attempt{settle: func() { settled++ }}
			l.lookAt(a, at)
			l.wake()
			if _, waits := l.delayed[a]; waits == c.done || (settled == 1) != c.done {
				t.Errorf("an attempt is due in %v: settled %d times, waits %v", c.in, settled, waits)
			}
		}
		l, plans := bareLoop()
		l.wake()
		if plans.asked > 0 || !l.disputedAt.IsZero() || !l.movedAt.IsZero() {
			t.Error("something is done though nothing is due")
		}
	})
}

// A write that fails is tried again after a pause that grows, one that another has
// overtaken when its object has changed, and what came meanwhile is looked at at once.
func TestWhatAWriteEndsWithSaysWhenItIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			outcome kube.Outcome
			pauses  []time.Duration
		}{
			{kube.Done, []time.Duration{0}},
			{kube.Unchanged, []time.Duration{0}},
			{kube.Stale, []time.Duration{0}},
			{kube.Gone, []time.Duration{0}},
			{kube.Unknown, []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second}},
			{kube.Busy, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}},
			{kube.Fenced, []time.Duration{time.Second, 2 * time.Second}},
			{kube.Refused, []time.Duration{5 * time.Second, 10 * time.Second}},
		} {
			l, _ := bareLoop()
			settled, done := 0, 0
			a := &attempt{settle: func() { settled++ }}
			for n, pause := range c.pauses {
				delete(l.delayed, a) // its time has come
				l.submit(a, job{kind: kindPool, object: "p", done: func(kube.Outcome) { done++ }})
				if !a.underWay || len(l.backlog) != n+1 {
					t.Fatalf("%v: not under way", c.outcome)
				}
				l.look(a) // it has to wait for the end
				if settled != 0 || !a.again {
					t.Errorf("%v: settled while it is under way", c.outcome)
				}
				a.again = false
				l.ended(result{job: l.backlog[n], outcome: c.outcome, err: errors.New("why")})
				if a.underWay || done != n+1 {
					t.Errorf("%v: under way %v, told %d times", c.outcome, a.underWay, done)
				}
				if _, waits := l.delayed[a]; waits != (pause > 0) || pause > 0 && !a.due.Equal(time.Now().Add(pause)) {
					t.Errorf("%v, time %d: waits %v until %v, want %v", c.outcome, n+1, waits, time.Until(a.due), pause)
				}
				if want := n + 1; pause > 0 && a.failures != want || pause == 0 && a.failures != 0 {
					t.Errorf("%v: %d failures", c.outcome, a.failures)
				}
			}
			// Whoever looks before that does not shorten the pause, and a change does.
			settled = 0
			l.look(a)
			pause := c.pauses[len(c.pauses)-1]
			if (settled == 0) != (pause > 0) {
				t.Errorf("%v: settled %d times in its pause", c.outcome, settled)
			}
			l.forgive(a)
			l.look(a)
			if _, waits := l.delayed[a]; waits || settled == 0 || a.failures != 0 {
				t.Errorf("%v: after a change settled %d times, waits %v", c.outcome, settled, waits)
			}
			// What has come meanwhile is looked at as soon as the pause lets it.
			l.submit(a, job{kind: kindPool})
			l.look(a)
			settled = 0
			l.ended(result{job: l.backlog[len(l.backlog)-1], outcome: c.outcome})
			if a.again || (settled == 0) != (pause > 0) {
				t.Errorf("%v: again %v, settled %d times", c.outcome, a.again, settled)
			}
		}
	})
}

// What goes on failing for one reason is told once, and so is that it ended.
func TestAFailureIsToldOnce(t *testing.T) {
	var log strings.Builder
	l, _ := bareLoop()
	l.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	a := &attempt{settle: func() {}}
	for _, o := range []kube.Outcome{kube.Busy, kube.Busy, kube.Stale, kube.Busy, kube.Refused, kube.Refused, kube.Done, kube.Done, kube.Busy, kube.Unchanged, kube.Unchanged} {
		l.ended(result{job: job{kind: kindPool, object: "edge", attempt: a}, outcome: o})
	}
	failed, after := strings.Count(log.String(), "write failed"), strings.Count(log.String(), "written after failures")
	if failed != 3 || after != 2 {
		t.Errorf("told %d times that it fails, %d times that it does no more:\n%s", failed, after, log.String())
	}
}

// An attempt that is delayed twice is looked at at the sooner of the two times.
func TestTheSoonerTimeCounts(t *testing.T) {
	l, _ := bareLoop()
	a := &attempt{}
	base := time.Unix(1000, 0)
	for _, c := range []struct{ at, want int }{{10, 10}, {20, 10}, {5, 5}, {7, 5}} {
		l.lookAt(a, base.Add(time.Duration(c.at)*time.Second))
		if want := base.Add(time.Duration(c.want) * time.Second); !a.due.Equal(want) || len(l.delayed) != 1 {
			t.Errorf("due %v, want %v", a.due, want)
		}
	}
	delete(l.delayed, a) // that was then
	l.lookAt(a, base.Add(time.Hour))
	if !a.due.Equal(base.Add(time.Hour)) {
		t.Errorf("due %v", a.due)
	}
}

// Whatever places are set: each address has the last, and nodes have what that makes.
func TestPlacesCountWhatTheyHold(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 2))
		p, want := newPlaces(), map[netip.Addr]string{}
		for range 30 {
			a, node := addresses[rng.IntN(3)], []string{"", "a", "b"}[rng.IntN(3)]
			p.set(a, node)
			if want[a] = node; node == "" {
				delete(want, a)
			}
			load := map[string]int{}
			for _, n := range want {
				load[n]++
			}
			if !maps.Equal(p.of, want) || !maps.Equal(p.load, load) {
				t.Fatalf("seed %d: %v, %v; want %v, %v", seed, p.of, p.load, want, load)
			}
		}
	}
}

// Whatever is decided: who holds an address is who does by the latest decisions. What
// nobody holds has no place, and no standing.
func TestHoldersAreThoseOfTheLatestDecisions(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		l, _ := bareLoop()
		has := map[lb.ServiceKey][]allocator.Assignment{}
		for range 20 {
			key := lb.ServiceKey{Namespace: "default", Name: fmt.Sprint(rng.IntN(3))}
			var next []allocator.Assignment
			orphaned := map[string]bool{}
			for _, a := range has[key] {
				if a.Orphan {
					orphaned[a.Pool] = true
				}
			}
			for _, a := range addresses {
				if rng.IntN(3) == 0 {
					pool := []string{"edge", "lab"}[rng.IntN(2)]
					next = append(next, allocator.Assignment{Address: a, Pool: pool, Orphan: rng.IntN(2) == 0})
					if next[len(next)-1].Orphan {
						orphaned[pool] = true
					}
				}
			}
			clear(l.orphaned)
			l.hold(key, has[key], next)
			has[key] = next
			if !maps.Equal(l.orphaned, orphaned) {
				t.Fatalf("seed %d: orphans of %v have changed, want %v", seed, l.orphaned, orphaned)
			}
			want := map[netip.Addr][]lb.ServiceKey{}
			for _, key := range slices.SortedFunc(maps.Keys(has), lb.ServiceKey.Compare) {
				for _, a := range has[key] {
					want[a.Address] = append(want[a.Address], key)
				}
			}
			got := map[netip.Addr][]lb.ServiceKey{}
			for a, keys := range l.holders {
				got[a] = slices.SortedFunc(slices.Values(keys), lb.ServiceKey.Compare)
			}
			if !maps.EqualFunc(got, want, slices.Equal) {
				t.Fatalf("seed %d: held by %v, want %v", seed, got, want)
			}
			for _, a := range addresses {
				held := len(want[a]) > 0
				if _, placed := l.places.of[a]; placed && !held {
					t.Fatalf("seed %d: %v has a place and no holder", seed, a)
				}
				if _, counted := l.standings[a]; counted && !held {
					t.Fatalf("seed %d: %v is counted and has no holder", seed, a)
				}
				l.stand(report.AddressStanding{Address: a})
				if _, counted := l.standings[a]; counted != held {
					t.Fatalf("seed %d: %v is counted: %v, held: %v", seed, a, counted, held)
				}
				if held {
					l.places.set(a, "node1")
				}
			}
		}
	}
}

// Two Services share an orphan: it is told once, with the first of them; and only under
// its own pool.
func TestAnOrphanIsToldWithTheFirstOfItsServices(t *testing.T) {
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		for range 20 { // in whichever order the Services come
			l, _ := bareLoop()
			hold := func(name string, as ...allocator.Assignment) {
				l.services[lb.ServiceKey{Namespace: "default", Name: name}] = &service{decision: allocator.Decision{Assignments: as}}
			}
			hold("b", allocator.Assignment{Address: a, Pool: "edge", Orphan: true})
			hold("a", allocator.Assignment{Address: a, Pool: "edge", Orphan: true}, allocator.Assignment{Address: a.Next(), Pool: "edge"})
			hold("c", allocator.Assignment{Address: a, Pool: "edge", Orphan: true}, allocator.Assignment{Address: a.Prev(), Pool: "edge", Orphan: true})
			hold("d", allocator.Assignment{Address: a.Next().Next(), Pool: "lab", Orphan: true})
			want := []v1beta1.OrphanedAddress{{Address: a.Prev().String(), Service: "default/c"}, {Address: a.String(), Service: "default/a"}}
			if got := l.orphans("edge"); !slices.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	}
}

// greedyReport is of a pool of whose addresses n are orphans, as many freed and as many
// ranges served, in either family: every other address, so that no two make a range, or
// each in a block of its own.
func greedyReport(n int, step uint64, name string) poolReport {
	r := poolReport{now: time.Unix(1<<31, 0)}
	r.finding.Problems = []config.Problem{{Field: "spec", Reason: v1beta1.ReasonInvalid, Why: strings.Repeat("x", 4096)}}
	r.decision.V4 = allocator.Count{Total: math.MaxInt64, Assigned: math.MaxInt64 / 2, Available: math.MaxInt64, Reserved: math.MaxInt64, Orphans: math.MaxInt64 / 2}
	r.decision.V6 = r.decision.V4
	for i := range n {
		for _, a := range []netip.Addr{nth("10.0.0.1", step*uint64(i)), nth("2001:db8:1111:2222:3333:4444:5555:1", step*uint64(i))} {
			key := lb.ServiceKey{Namespace: "default", Name: fmt.Sprintf("%s%d", name, i)}
			r.served = append(r.served, lb.AddressRange{First: a, Last: a})
			r.orphans = append(r.orphans, v1beta1.OrphanedAddress{Address: a.String(), Service: key.String()})
			r.decision.Freed = append(r.decision.Freed, lb.FreedAddress{Address: a, Service: key, At: time.Unix(int64(i)*41, 0).UTC()})
		}
	}
	slices.SortFunc(r.served, func(a, b lb.AddressRange) int { return a.First.Compare(b.First) })
	slices.SortFunc(r.orphans, func(a, b v1beta1.OrphanedAddress) int {
		return netip.MustParseAddr(a.Address).Compare(netip.MustParseAddr(b.Address))
	})
	return r
}

// nth returns the address that many after another.
func nth(a string, n uint64) netip.Addr {
	b := netip.MustParseAddr(a).As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b).Unmap()
}

// A pool's status goes to every node with each change, and Services that come and go change
// it: so it stays below 16 KiB, whatever they are called, and says of what is ours all
// that fits.
func TestAPoolsStatusStaysBelow16KiB(t *testing.T) {
	for _, n := range []int{0, 1, 8, 9, 200, 512, 3000} {
		for _, step := range []uint64{1, 2, 257, 65537} {
			for _, name := range []string{"a", strings.Repeat("a", 120)} {
				for _, retention := range []time.Duration{0, math.MaxInt64 / 2} {
					r := greedyReport(n, step, name)
					r.retention = retention
					s := r.status(v1beta1.IPAddressPoolStatus{})
					body, err := json.Marshal(s)
					if err != nil || len(body) > 16<<10 {
						t.Errorf("%d addresses, %d apart: %d bytes, %v", n, step, len(body), err)
					}
				}
			}
		}
	}
}

// What stands in the status of a pool is read back as what it was: every orphan, what is kept
// for Services to the second, and of the rest the order, ten minutes more or less; and it
// is written again as it is.
func TestAPoolsStatusIsReadBackAsItWasWritten(t *testing.T) {
	for _, retention := range []time.Duration{0, time.Hour} {
		r := greedyReport(60, 3, "a")
		r.now, r.retention = r.decision.Freed[len(r.decision.Freed)-1].At.Add(retention-time.Minute), retention
		first := r.status(v1beta1.IPAddressPoolStatus{})
		read, _ := config.Pool(&v1beta1.IPAddressPool{Status: first})
		var orphans []string
		for _, a := range read.Records {
			orphans = append(orphans, a.String())
		}
		for _, o := range r.orphans {
			if !slices.Contains(orphans, o.Address) {
				t.Errorf("orphan %s is lost", o.Address)
			}
		}
		if len(read.Records) != len(r.orphans) || len(read.Freed) != len(r.decision.Freed) {
			t.Fatalf("%d orphans, want %d; %d freed, want %d", len(read.Records), len(r.orphans), len(read.Freed), len(r.decision.Freed))
		}
		latest := len(r.decision.Freed) - namedFreed
		for _, was := range r.decision.Freed {
			if r.now.Before(was.At.Add(retention)) {
				latest--
			}
		}
		for i, was := range r.decision.Freed {
			j := slices.IndexFunc(read.Freed, func(f lb.FreedAddress) bool { return f.Address == was.Address })
			if j < 0 {
				t.Fatalf("%v is forgotten", was)
			}
			switch is := read.Freed[j]; {
			case i >= latest: // to the second, with its Service
				if is.Service != was.Service || !is.At.Equal(was.At) {
					t.Errorf("%v is read as %v", was, is)
				}
			case is.At.After(was.At) || was.At.Sub(is.At) >= 10*time.Minute || is.Service != (lb.ServiceKey{}):
				t.Errorf("%v is read as %v", was, is)
			}
		}
		r.decision.Freed = read.Freed
		slices.SortStableFunc(r.decision.Freed, func(a, b lb.FreedAddress) int { return a.At.Compare(b.At) })
		if again := r.status(first); !kube.SamePoolStatus(first, again) {
			t.Errorf("written again:\n%v\nwas\n%v", again.Freed, first.Freed)
		}
	}
}

// Where there is no room for all, what is kept for Services goes before the rest, and the
// latest before the older.
func TestOfAJournalThatIsTooLongTheKeptAndTheLatestStay(t *testing.T) {
	r := greedyReport(400, 65537, strings.Repeat("a", 50))
	all := r.decision.Freed
	keptFrom := len(all) - 60
	r.now, r.retention = all[keptFrom].At.Add(time.Hour-time.Nanosecond), time.Hour
	for i := range all[:keptFrom] { // what is longer ago than an hour
		all[i].At = all[i].At.Add(-time.Hour)
	}
	read, _ := config.Pool(&v1beta1.IPAddressPool{Status: r.status(v1beta1.IPAddressPoolStatus{})})
	var older time.Time
	lost, kept := 0, 0
	for i, was := range all {
		there := slices.ContainsFunc(read.Freed, func(f lb.FreedAddress) bool { return f.Address == was.Address })
		switch {
		case i < keptFrom && there:
			kept++
			if older.IsZero() {
				older = was.At
			}
		case i < keptFrom:
			lost++
			if !older.IsZero() && was.At.Sub(older) >= 10*time.Minute {
				t.Fatalf("%v is forgotten, and an older one is not", was)
			}
		}
	}
	if lost == 0 || len(read.Freed) == 0 {
		t.Fatalf("%d are lost, %d of those that are not kept for anybody stay", lost, kept)
	}
	if got := read.Freed[len(read.Freed)-1]; got.Address != all[len(all)-1].Address && got.Address != all[len(all)-2].Address {
		t.Errorf("the latest that stays is %v", got)
	}
}

// A job is carried out within its time, or not at all by who leads no more, and a panic
// is a refusal.
func TestAJobIsCarriedOutByTheLeaderAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := true
		c := New(Options{Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry(), nil), Held: func() bool { return held }, WriteTimeout: 5 * time.Second})
		ran := 0
		j := job{kind: kindPool, object: "edge", do: func(ctx context.Context) (kube.Outcome, error) {
			ran++
			began := time.Now()
			<-ctx.Done()
			if took := time.Since(began); took != 5*time.Second {
				t.Errorf("it may take %v", took)
			}
			return kube.Unknown, ctx.Err()
		}}
		if r := c.do(t.Context(), j); r.outcome != kube.Unknown || r.err == nil || ran != 1 {
			t.Errorf("%+v", r)
		}
		held = false
		if r := c.do(t.Context(), j); r.outcome != kube.Fenced || ran != 1 {
			t.Errorf("%+v", r)
		}
		held = true
		j.do = func(context.Context) (kube.Outcome, error) { panic("a fault") }
		if r := c.do(t.Context(), j); r.outcome != kube.Refused || r.err == nil || !strings.Contains(r.err.Error(), "pool edge: panic: a fault") {
			t.Errorf("%+v", r)
		}
	})
}

// What is decided about a Service bears on those that share an address with it, and on
// those that did.
func TestADecisionBearsOnAllWhoShareItsAddresses(t *testing.T) {
	for _, x := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		l, _ := bareLoop()
		key := func(name string) lb.ServiceKey { return lb.ServiceKey{Namespace: "default", Name: name} }
		for _, name := range []string{"a", "b", "c"} {
			l.services[key(name)] = &service{}
		}
		decide := func(name string, want string, addresses ...netip.Addr) {
			t.Helper()
			d := allocator.Decision{Service: key(name)}
			for _, a := range addresses {
				d.Assignments = append(d.Assignments, allocator.Assignment{Address: a, Pool: "edge"})
			}
			got := map[string]bool{}
			for _, k := range l.decided(d) {
				got[k.Name] = true
			}
			if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != want {
				t.Errorf("what is decided about %s bears on %q, want %q", name, names, want)
			}
		}
		decide("a", "a", x)
		decide("b", "a b", x)
		decide("c", "c", x.Next())
		decide("a", "a b c", x.Next())
		decide("a", "a c")
		decide("gone", "")
		if s := l.services[key("a")]; len(s.decision.Assignments) != 0 {
			t.Errorf("%+v", s.decision)
		}
	}
}

// Who has left the LoadBalancers is cleaned once, and again for as long as that does not
// succeed; who has left anew is another matter.
func TestALeftoverIsCleanedUntilItIs(t *testing.T) {
	key := lb.ServiceKey{Namespace: "default", Name: "a"}
	for _, c := range []struct {
		outcome kube.Outcome
		left    bool
		again   int // jobs right away
	}{
		{kube.Done, false, 0}, {kube.Unchanged, false, 0}, {kube.Gone, false, 0}, {kube.Stale, true, 1}, {kube.Busy, true, 0}, {kube.Refused, true, 0}, {kube.Unknown, true, 0},
	} {
		l, _ := bareLoop()
		l.leave(map[lb.ServiceKey]string{key: "1"})
		if len(l.backlog) != 1 || l.backlog[0].kind != kindCleanup || l.backlog[0].object != "default/a" {
			t.Fatalf("%v: %+v", c.outcome, l.backlog)
		}
		first := l.backlog[0]
		l.ended(result{job: first, outcome: c.outcome})
		if _, left := l.left[key]; left != c.left || len(l.backlog) != 1+c.again {
			t.Errorf("%v: left %v, %d jobs", c.outcome, left, len(l.backlog))
		}

		// It comes back and leaves again before the first cleaning is over.
		l, _ = bareLoop()
		l.leave(map[lb.ServiceKey]string{key: "1"})
		first = l.backlog[0]
		l.leave(map[lb.ServiceKey]string{key: "2"})
		l.ended(result{job: first, outcome: c.outcome})
		if o := l.left[key]; o == nil || o.uid != "2" || len(l.backlog) != 2 {
			t.Errorf("%v of one that has come back: %+v, %d jobs", c.outcome, o, len(l.backlog))
		}
	}
}

// Where somebody else has recorded an address is believed, unless it is what was seen
// before, what we write ourselves, or nothing.
func TestOnlyWhatAnotherHasRecordedIsBelieved(t *testing.T) {
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		at := func(node string) lb.Service {
			return lb.Service{Assigned: []netip.Addr{a}, Placed: []string{node}}
		}
		for _, c := range []struct {
			name                        string
			known, seen, wrote, records string
			held                        bool
			place                       string
			look                        bool
		}{
			{"as it is known", "n1", "n1", "", "n1", true, "n1", false},
			{"another has moved it", "n1", "n1", "", "n2", true, "n2", true},
			{"nobody had placed it", "", "", "", "n2", true, "n2", true},
			{"seen already, and we have moved it since", "n2", "n1", "", "n1", true, "n2", true},
			{"our write is under way", "n3", "n1", "n2", "n2", true, "n3", true},
			{"the record is gone", "n1", "n1", "", "", true, "n1", true},
			{"nobody holds it yet", "", "", "", "n2", false, "", true},
		} {
			l, _ := bareLoop()
			l.places.set(a, c.known)
			if c.held {
				l.holders[a] = []lb.ServiceKey{{Name: "a"}}
			}
			s := &service{
				seen:  records{Assigned: []netip.Addr{a}, Placed: []string{c.seen}},
				wrote: records{Assigned: []netip.Addr{a}, Placed: []string{c.wrote}},
			}
			is := at(c.records)
			is.Reallocated, is.Terms, is.Moved = "1", "terms", lb.Move{Token: "2"}
			look := l.replaced(s, is)
			if look != c.look || l.places.of[a] != c.place {
				t.Errorf("%s, %v: look %v, on %q; want %v, %q", c.name, a, look, l.places.of[a], c.look, c.place)
			}
			if s.seen.placeOf(a) != c.records || s.seen.Reallocated != "1" || s.seen.Terms != "terms" || s.seen.Moved.Token != "2" {
				t.Errorf("%s, %v: seen is %+v", c.name, a, s.seen)
			}
		}
	}
}

// A request to move is asked for once.
func TestARequestToMoveIsOneUntilItIsAnswered(t *testing.T) {
	s := &service{moved: lb.Move{Token: "1"}}
	for token, want := range map[string]bool{"": false, "1": false, "2": true} {
		if got := s.asksToMove(lb.Service{Request: lb.Request{Move: token}}); got != want {
			t.Errorf("token %q: %v", token, got)
		}
	}
}

// Histograms reach from the quickest to the slowest that there is, doubling or more.
func TestHistogramsHaveRoomForAllThatHappens(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r, &kube.Recorder{})
	m.latency.Observe(1)
	m.passes.Observe(1)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range families {
		want, ok := map[string][2]float64{"belfry_allocation_seconds": {0.001, 32.768}, "belfry_controller_pass_seconds": {0.00001, 2.62144}}[f.GetName()]
		if !ok {
			continue
		}
		seen++
		buckets := f.Metric[0].Histogram.Bucket
		first, last := buckets[0].GetUpperBound(), buckets[len(buckets)-1].GetUpperBound()
		if first != want[0] || last < want[1]*0.999 || last > want[1]*1.001 {
			t.Errorf("%s reaches from %v to %v, want %v", f.GetName(), first, last, want)
		}
	}
	if seen != 2 {
		t.Errorf("%d histograms", seen)
	}
}

// One address is named with its Service, several are counted and named, each once and in
// order; an orphan is a warning; and what is not known is left out.
func TestALineSaysWhatHasBecomeOfAddresses(t *testing.T) {
	at := func(a, name string) given {
		return given{netip.MustParseAddr(a), lb.ServiceKey{Namespace: "default", Name: name}}
	}
	for _, c := range []struct {
		of    topic
		facts []given
		want  string
	}{
		{topic{verb: verbAllocated, pool: "edge"}, []given{at("2001:db8::1", "a")}, "INFO address allocated address=2001:db8::1 service=default/a pool=edge"},
		{
			topic{verb: verbReleased, cause: causeDeleted},
			[]given{at("2001:db8::1", "b"), at("192.0.2.1", "a")},
			"INFO addresses released count=2 addresses=192.0.2.1 2001:db8::1 services=default/a default/b cause=Deleted",
		},
		{
			topic{verb: verbOrphaned, pool: "edge"},
			[]given{at("192.0.2.1", "b"), at("192.0.2.1", "a"), at("192.0.2.9", "a")},
			"WARN addresses orphaned count=3 addresses=192.0.2.1,9 services=default/a default/b pool=edge",
		},
	} {
		level, message, attributes := line(c.of, c.facts)
		got := level.String() + " " + message
		for _, a := range attributes {
			got += " " + a.String()
		}
		if got != c.want {
			t.Errorf("%s\nwant\n%s", got, c.want)
		}
	}
}

// Who waits to be told stands in line once, and is told in turn: slower while addresses
// wait to be written; and in a long line those whose result is awaited let others go
// first, for a while.
func TestThoseWhoWaitToBeToldStandInLine(t *testing.T) {
	l, _ := bareLoop()
	now := time.Unix(1000, 0)
	if !l.turn().IsZero() {
		t.Error("nobody waits, and it is somebody's turn")
	}
	first, told := &service{}, objects.Condition{Reason: "Announced"}
	l.await(first, told, now)
	l.await(first, told, now.Add(time.Second))
	if len(l.telling) != 1 || !first.lined.Equal(now) {
		t.Errorf("%d are in line, the first since %v", len(l.telling), first.lined)
	}
	l.told = now
	if got := l.turn().Sub(now); got != tellPause {
		t.Errorf("its turn comes after %v, want %v", got, tellPause)
	}
	l.backlog = []job{{}}
	if got := l.turn().Sub(now); got != 10*tellPause {
		t.Errorf("its turn comes after %v while others are written, want %v", got, 10*tellPause)
	}
	l.backlog, l.telling = nil, nil
	for i := range longLine {
		l.await(&service{expects: true}, told, now.Add(time.Duration(longLine-i)*time.Millisecond))
	}
	if i, _ := l.next(); i != longLine-1 || l.turn() != now.Add(time.Millisecond+resultPatience) {
		t.Errorf("all await a result: next is %d, at %v", i, l.turn().Sub(now))
	}
	l.await(&service{}, told, now.Add(time.Minute))
	if i, _ := l.next(); i != longLine || l.turn() != now.Add(tellPause) {
		t.Errorf("one awaits none: next is %d, at %v", i, l.turn().Sub(now))
	}
	l.telling = l.telling[:longLine-1]
	if i, _ := l.next(); i != 0 || l.turn() != now.Add(tellPause) {
		t.Errorf("the line is short: next is %d, at %v", i, l.turn().Sub(now))
	}
}

// Of Services that are new a few are told at once where they are, or that they have no
// endpoints, and the others when all is known, however slowly they come. One that has moved
// waits for none of them.
func TestOfManyNewServicesMostAreToldOnce(t *testing.T) {
	unserved := &objects.Condition{Status: metav1.ConditionFalse, Reason: "NoEndpoint"}
	for _, c := range []struct {
		name string
		is   service
		says objects.Condition
	}{
		{"a result is awaited", service{expects: true}, objects.Condition{}},
		{"a result is awaited, endpoints were", service{expects: true}, *unserved},
		{"endpoints are awaited", service{announced: unserved}, objects.Condition{}},
	} {
		l, _ := bareLoop()
		now, early := time.Unix(1000, 0), 0
		for range 600 { // 60 a second for ten seconds
			now = now.Add(time.Second / 60)
			s := c.is
			l.await(&s, c.says, now)
			if _, ripe := l.next(); ripe.IsZero() {
				early++
			} else if want := now.Add(firstPatience); ripe != want {
				t.Fatalf("%s: its turn comes after %v, want %v", c.name, ripe.Sub(now), firstPatience)
			}
			l.telling = nil
		}
		if most := firstBurst + 10*firstRate; early < firstBurst || early > most {
			t.Errorf("%s: %d of 600 are told at once, want %d to %d", c.name, early, firstBurst, most)
		}
		waits := c.is
		l.await(&waits, c.says, now)
		moved := &service{expects: true}
		l.await(moved, objects.Condition{Status: metav1.ConditionTrue, Reason: "Verified"}, now)
		if i, ripe := l.next(); l.telling[i] != moved || !ripe.IsZero() {
			t.Errorf("%s: next is %d, at %v, and not the one that has moved", c.name, i, ripe)
		}
		// All is known of it now.
		waits.expects, waits.announced = false, &objects.Condition{Reason: "Verified"}
		if i, ripe := l.next(); l.telling[i] != &waits || !ripe.IsZero() {
			t.Errorf("%s: next is %d, at %v, and not the one of which all is known", c.name, i, ripe)
		}
		now = now.Add(time.Hour)
		alone := c.is
		l.telling = nil
		if l.await(&alone, c.says, now); alone.patient {
			t.Errorf("%s: one that is made alone waits", c.name)
		}
	}
}

// A term begins with every series that it may count, at zero.
func TestATermBeginsWithEverySeries(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r, &kube.Recorder{})
	m.count(standing{"Exhausted", true}, 1) // by the term before, which has panicked
	m.reset()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]bool{}
	for _, f := range families {
		for _, metric := range f.Metric {
			name := f.GetName()
			for _, label := range metric.Label {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			series[name] = true
			if metric.Gauge.GetValue() != 0 {
				t.Errorf("%s begins with %v", name, metric.Gauge.GetValue())
			}
		}
	}
	want := []string{
		"belfry_addresses protocol=none state=" + report.StandingUnannounced.String(), "belfry_objects kind=IPAddressPool reason=Accepted",
		"belfry_services_announced announced=true reason=Announced", "belfry_services reason=Contested waiting=false", "belfry_services reason=Exhausted waiting=true",
	}
	for _, s := range report.Standings {
		want = append(want, "belfry_addresses protocol=layer2 state="+s.String(), "belfry_addresses protocol=bgp state="+s.String())
	}
	for _, kind := range kube.StatusKinds {
		want = append(want, "belfry_objects kind="+kind+" reason=Accepted")
	}
	for _, w := range want {
		if !series[w] {
			t.Errorf("no series %s", w)
		}
	}
}

// However many writes are done and not looked at when a term ends, those under way end,
// too: a leader that waits for them for ever keeps the Lease and does nothing.
func TestATermEndsThoughMoreIsWrittenThanThereIsRoomFor(t *testing.T) {
	for _, failed := range []error{nil, errors.New("panic")} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := bareLoop()
			var wg sync.WaitGroup
			ended := 0
			for range cap(l.results) + writers {
				wg.Go(func() {
					l.results <- result{job: job{attempt: &attempt{}, done: func(kube.Outcome) { ended++ }}, outcome: kube.Done}
				})
			}
			if err := l.end(&wg, failed); !errors.Is(err, failed) {
				t.Errorf("it ended with %v, want %v", err, failed)
			}
			if want := cap(l.results) + writers; failed == nil && ended != want {
				t.Errorf("what became of %d writes is noted, want %d", ended, want)
			}
		})
	}
}

// What another writer removes is remembered, of the same Service alone, and never of one
// that is another installation's.
func TestWhatAnotherWriterRemovesIsRemembered(t *testing.T) {
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		knows := func() *service {
			return &service{
				uid:      "1",
				decision: allocator.Decision{Assignments: []allocator.Assignment{{Address: a, Pool: "edge"}}, Reallocated: "token", Terms: "terms"},
				seen:     records{Assigned: []netip.Addr{a}, Reallocated: "token", Terms: "terms"},
			}
		}
		stripped := lb.Service{UID: "1", Withdrawn: []netip.Addr{a.Next()}}
		got := knows().remember(stripped)
		if !slices.Equal(got.Assigned, []netip.Addr{a}) || !slices.Equal(got.AssignedPools, []string{"edge"}) ||
			!slices.Equal(got.Withdrawn, []netip.Addr{a, a.Next()}) || got.Reallocated != "token" || got.Terms != "terms" {
			t.Errorf("%v: %+v", a, got)
		}
		for what, is := range map[string]lb.Service{
			"another of its name":  {UID: "2"},
			"released":             {UID: "1", Released: true},
			"another's":            {UID: "1", Foreign: true},
			"what has other terms": {UID: "1", Assigned: []netip.Addr{a}, Reallocated: "other", Terms: "other"},
		} {
			if got := knows().remember(is); !reflect.DeepEqual(got, is) {
				t.Errorf("%v, %s: %+v", a, what, got)
			}
		}
		s := knows()
		s.seen.Terms, s.seen.Reallocated = "", ""
		if got := s.remember(stripped); got.Terms != "" || got.Reallocated != "" {
			t.Errorf("%v: it never had terms or a token, and is remembered with %q and %q", a, got.Terms, got.Reallocated)
		}
	}
	one, two := lb.Move{Token: "1"}, lb.Move{Token: "2"}
	for _, c := range []struct {
		uid             string
		moved, is, want lb.Move
	}{{"1", lb.Move{}, one, one}, {"1", two, one, two}, {"2", two, one, one}} {
		s := &service{uid: c.uid, moved: c.moved}
		if s.remember(lb.Service{UID: "1", Moved: c.is}); s.moved != c.want {
			t.Errorf("of %s %+v is remembered beside %+v, want %+v", c.uid, s.moved, c.is, c.want)
		}
	}
}

// A Service that holds nothing has nothing to tell of its announcing, whatever it was
// told before.
func TestWhoHoldsNothingIsToldNothing(t *testing.T) {
	l, _ := bareLoop()
	key := lb.ServiceKey{Namespace: "default", Name: "a"}
	condition := &objects.Condition{Reason: "Announced"}
	s := &service{announced: condition, placed: []string{"node1"}, event: report.Event{Kind: report.Announcing}, decision: allocator.Decision{Service: key, Reason: allocator.Exhausted, Detail: &allocator.Detail{Family: lb.IPv6}}}
	l.services[key] = s
	if w := s.want(); w.Announced == nil || *w.Announced != (objects.Condition{}) {
		t.Errorf("it should carry %+v", w.Announced)
	}
	l.judge([]lb.ServiceKey{key, {Name: "gone"}})
	if s.announced != nil || s.placed != nil || s.event != (report.Event{}) {
		t.Errorf("it is still told %+v, placed on %q: %+v", s.announced, s.placed, s.event)
	}
}

// An Event tells what stands in the condition by our writing, or cannot stand there
// because another writer insists. What another leader has written it has told.
func TestAnEventIsToldByWhoHasWrittenTheCondition(t *testing.T) {
	now := objects.Condition{Status: metav1.ConditionTrue, Reason: "Announced", Message: "announced"}
	all := objects.Parts(0).With(objects.PartAnnounced)
	for _, c := range []struct {
		name        string
		is          objects.Condition
		wrote, over objects.Parts
		told        int64
		waits       bool
	}{
		{"it stands there already", now, 0, 0, 0, false},
		{"it stands there, and is written again", now, all, 0, 0, false},
		{"it is written", objects.Condition{}, all, 0, 1, false},
		{"something else is written", objects.Condition{}, 0, 0, 0, true},
		{"another writer insists", objects.Condition{}, 0, all, 1, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := bareLoop()
			l.Events = &kube.Recorder{} // without room: it counts what it drops
			s := &service{event: report.Event{Kind: report.NotAnnounced, Message: "it is not"}, announced: &now}
			s.rivalry.over = c.over
			l.tellEvent(objects.Service{Announced: c.is}, s, objects.ServiceWrite{Announced: &now}, c.wrote)
			if told, waits := l.Events.Dropped(), s.event != (report.Event{}); told != c.told || waits != c.waits {
				t.Errorf("%s: %d Events, waits %v; want %d, %v", c.name, told, waits, c.told, c.waits)
			}
			if l.tellEvent(objects.Service{}, s, objects.ServiceWrite{}, all); l.Events.Dropped() != c.told {
				t.Errorf("%s: an Event without a condition", c.name)
			}
		})
	}
}

// That a move is refused is told once, when it is recorded.
func TestARefusedMoveIsToldWhenItIsRecorded(t *testing.T) {
	refused := lb.Move{Token: "1", Refused: true}
	for _, c := range []struct {
		was, is lb.Move
		why     string
		want    int64
	}{
		{lb.Move{}, refused, "no such node", 1},
		{refused, refused, "no such node", 0},
		{lb.Move{Token: "0", Refused: true}, refused, "no such node", 1},
		{lb.Move{}, lb.Move{Token: "1"}, "no such node", 0},
		{lb.Move{}, refused, "", 0}, // another leader refused it, and told why
	} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := bareLoop()
			l.Events = &kube.Recorder{}
			var was objects.Service
			was.Moved = c.was
			if l.tellMove(was, objects.ServiceWrite{Moved: c.is}, c.why); l.Events.Dropped() != c.want {
				t.Errorf("from %+v to %+v, because %q: %d Events, want %d", c.was, c.is, c.why, l.Events.Dropped(), c.want)
			}
		})
	}
}

// What is given up is told if it was given, not what another writer had put there.
func TestWhatWasNeverGivenIsNotToldAsReleased(t *testing.T) {
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		for _, c := range []struct {
			name string
			was  lb.Service
			want int64
		}{
			{"given", lb.Service{Assigned: []netip.Addr{a}, AssignedPools: []string{"edge"}}, 1},
			{"given, and another withdrawn", lb.Service{Assigned: []netip.Addr{a}, AssignedPools: []string{"edge"}, Withdrawn: []netip.Addr{a.Next()}}, 1},
			{"of a status without any record", lb.Service{Assigned: []netip.Addr{a}, AssignedPools: []string{""}}, 1},
			{"put in the place of ours", lb.Service{Assigned: []netip.Addr{a}, AssignedPools: []string{""}, Withdrawn: []netip.Addr{a.Next()}}, 0},
			{"not there any more", lb.Service{}, 0},
		} {
			synctest.Test(t, func(t *testing.T) {
				l, _ := bareLoop()
				l.Events = &kube.Recorder{}
				d := allocator.Decision{Released: []allocator.Release{{Address: a, Pool: "edge", Cause: allocator.LostToOlder}}}
				if l.tell(objects.Service{Service: c.was}, d, objects.ServiceWrite{}); l.Events.Dropped() != c.want {
					t.Errorf("%v, %s: %d Events, want %d", a, c.name, l.Events.Dropped(), c.want)
				}
			})
		}
	}
}

// It is contested once that is written, and then until it has stayed.
func TestWhatIsContestedSaysSoFromTheFirstOn(t *testing.T) {
	over := objects.Parts(0).With(objects.PartIngress)
	want := objects.ServiceWrite{Allocated: objects.Condition{Status: metav1.ConditionFalse, Reason: "Exhausted"}}
	d := allocator.Decision{Reason: allocator.Exhausted, Detail: &allocator.Detail{Family: lb.IPv6}}
	told := objects.Condition{Status: metav1.ConditionFalse, Reason: Contested, Message: "as it was told"}
	for _, c := range []struct {
		over objects.Parts
		is   objects.Condition
		want string
	}{
		{over, objects.Condition{Reason: "Exhausted"}, "lb-operator changes what Belfry writes"},
		{over, told, "as it was told"},
		{0, told, ""},
	} {
		got := contestedWrite(want, c.over, "lb-operator", d, &objects.Service{Allocated: c.is}).Allocated
		if !strings.HasPrefix(got.Message, c.want) || (got.Reason == Contested) != (c.over != 0) {
			t.Errorf("over %v, where it says %+v: %+v", c.over, c.is, got)
		}
	}
}

// Who is to be looked at later is not looked at before.
func TestWhoIsLookedAtLaterIsNotLookedAtBefore(t *testing.T) {
	l, _ := bareLoop()
	now := time.Unix(1000, 0)
	early, late := lb.ServiceKey{Name: "early"}, lb.ServiceKey{Name: "late"}
	l.retells[early], l.retells[late] = now, now.Add(1)
	if l.retell(now); len(l.retells) != 1 || l.retells[late].IsZero() {
		t.Errorf("to be looked at later are %v", l.retells)
	}
}
