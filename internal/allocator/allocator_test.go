package allocator

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestEachReasonHasItsName(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		if r.String() == "" || seen[r.String()] {
			t.Errorf("reason %d is called %q", r, r)
		}
		seen[r.String()] = true
	}
	if len(seen) != int(NotOurs)+1 {
		t.Errorf("%d reasons have names, want %d", len(seen), NotOurs+1)
	}
}

func TestAllocatedIsWhatTheFamiliesRequire(t *testing.T) {
	one := []lb.Family{lb.IPv4}
	two := []lb.Family{lb.IPv6, lb.IPv4}
	v4only, both := simplePool("edge", "198.51.100.0/30"), simplePool("edge", "198.51.100.0/30", "2001:db8::/126")
	for _, c := range []struct {
		name     string
		pool     lb.Pool
		families []lb.Family
		policy   lb.FamilyPolicy
		holds    []string
		want     bool
	}{
		{"nothing to be had", lb.Pool{Name: "edge"}, one, lb.SingleStack, nil, false},
		{"single", both, one, lb.SingleStack, nil, true},
		{"two required, two given", both, two, lb.RequireDualStack, nil, true},
		{"two required, one held", v4only, two, lb.RequireDualStack, []string{"198.51.100.0"}, false},
		{"two preferred, one held", v4only, two, lb.PreferDualStack, []string{"198.51.100.0"}, true},
		{"an orphan", v4only, []lb.Family{lb.IPv6}, lb.SingleStack, []string{"2001:db8::"}, true},
	} {
		s := simpleService(0)
		s.Families, s.FamilyPolicy = c.families, c.policy
		for _, a := range c.holds {
			s.Assigned, s.AssignedPools = append(s.Assigned, netip.MustParseAddr(a)), append(s.AssignedPools, "edge")
		}
		d := Plan(World{Pools: []lb.Pool{c.pool}, Services: []lb.Service{s}, Now: epoch}).Services[0]
		if d.Allocated() != c.want {
			t.Errorf("%s: allocated is %v: %v %s", c.name, d.Allocated(), d.Reason, d.Sentence())
		}
	}
}

func TestASentenceNamesOnlySome(t *testing.T) {
	w := World{Services: []lb.Service{simpleService(0)}, Now: epoch}
	sentence := func() string { return Plan(w).Services[0].Sentence() }
	if got, want := sentence(), "there is no IPAddressPool; create one"; got != want {
		t.Errorf("says %q, want %q", got, want)
	}
	for i := range 7 {
		full := simplePool(fmt.Sprint("full", i), fmt.Sprintf("10.0.0.%d/32", i))
		w.Nodes = append(w.Nodes, lb.Node{Name: fmt.Sprint("n", i), Addresses: []netip.Addr{full.Ranges[0].First}})
		lab := simplePool(fmt.Sprint("lab", i), fmt.Sprintf("10.0.1.%d/32", i))
		lab.AutoAssign = false
		w.Pools = append(w.Pools, full, lab)
	}
	want := "pool full0: all of its IPv4 addresses are Nodes' own; pool full1: all of its IPv4 addresses are Nodes' own; pool full2: all of its IPv4 addresses are Nodes' own; " +
		"pool full3: all of its IPv4 addresses are Nodes' own; pool full4: all of its IPv4 addresses are Nodes' own; and 2 more pools; " +
		"pools it could ask for by belfry.dev/address-pool: lab0, lab1, lab2, lab3, lab4 and 2 more"
	if got := sentence(); got != want {
		t.Errorf("says %q, want %q", got, want)
	}
}

func TestAConvergedWorldPlannedAgainChangesNothing(t *testing.T) {
	for _, family := range families {
		w := World{Pools: []lb.Pool{simplePool("edge", "198.51.100.0/28", "2001:db8::/124")}, Now: epoch}
		for i := range 20 {
			s := simpleService(i)
			s.Families = []lb.Family{family}
			w.Services = append(w.Services, s)
		}
		first := Plan(w)
		for i, d := range first.Services {
			w.Services[i] = d.Apply(w.Services[i])
		}
		for i, d := range Plan(w).Services {
			if d.Changes(w.Services[i]) || !d.Equal(first.Services[i]) {
				t.Errorf("%v: first %q, then %q", d.Service, first.Services[i].Sentence(), d.Sentence())
			}
		}
	}
}

// The random worlds are worth something only if they reach every reason, cause,
// clash and reason to keep one. How many it takes is not a question of how much time there
// is: the test goes on until nothing is missing.
func TestRandomWorldsReachEveryRule(t *testing.T) {
	missing := map[string]bool{"anew": true}
	for _, r := range Reasons() {
		missing["reason "+r.String()] = true
	}
	for _, c := range []Clash{NoClash, ClashKey, ClashPort, ClashTrafficPolicy, ClashSelector} { // that are told
		missing[fmt.Sprint("clash ", c)] = true
	}
	for l := NotKept; l <= KeptNode; l++ {
		missing[fmt.Sprint("kept ", l)] = true
	}
	for c := Requested; c <= NoLongerServed; c++ {
		missing["cause "+c.String()] = true
	}
	for seed := range uint64(10000) {
		_, w := worldOf(seed)
		for _, d := range Plan(w).Services {
			delete(missing, "reason "+d.Reason.String())
			if d.Detail != nil {
				delete(missing, fmt.Sprint("clash ", d.Detail.Clash))
				delete(missing, fmt.Sprint("kept ", d.Detail.KeptReason))
				if d.Detail.Reallocate {
					delete(missing, "anew")
				}
			}
			for _, r := range d.Released {
				delete(missing, "cause "+r.Cause.String())
			}
			if d.Sentence() == "" {
				t.Errorf("%v: says nothing about %v", d.Service, d.Reason)
			}
		}
		if len(missing) == 0 {
			return
		}
	}
	t.Errorf("no world has %v", slices.Sorted(maps.Keys(missing)))
}

// Whatever a plan promises is one that the rules permit: in the pool, lent, not
// reserved for another, within the limit. (Sharing and order are what the slow
// allocator and the histories are about.)
func TestNothingIsAssignedOutsidePoolsAndLimits(t *testing.T) {
	worlds(t, 5000, func(_ gen, w World) {
		o := &slow{World: w}
		held := map[lb.ServiceKey][]netip.Addr{}
		for _, s := range w.Services {
			held[s.Key] = s.Assigned
		}
		for _, d := range Plan(w).Services {
			i := slices.IndexFunc(w.Services, func(s lb.Service) bool { return s.Key == d.Service })
			for _, a := range d.Assignments {
				if slices.Contains(held[d.Service], a.Address) {
					continue
				}
				p := o.pool(a.Pool)
				switch {
				case a.Orphan || p == nil || !o.lendsTo(d.Service, p, a.Address):
					t.Errorf("%v is given %v, which pool %q does not lend", d.Service, a.Address, a.Pool)
				case p.Drain || p.Deleting:
					t.Errorf("%v is given %v by a draining pool", d.Service, a.Address)
				case !slowlyAdmits(p, &w.Services[i]):
					t.Errorf("%v is given %v by pool %s, which does not admit it", d.Service, a.Address, a.Pool)
				}
				if e, known := o.freed(a.Address); known && !slices.ContainsFunc(w.Services, func(s lb.Service) bool { return slices.Contains(s.Assigned, a.Address) }) {
					if !o.reservedUntil(e).IsZero() && e.Service != d.Service {
						t.Errorf("%v is given %v, which is reserved for %v", d.Service, a.Address, e.Service)
					}
				}
			}
		}
	})
}

func TestTheFreeListForgetsTheOldestFirst(t *testing.T) {
	for _, prefix := range []string{"10.0.0.0/16", "2001:db8::/64"} {
		pool := simplePool("edge", prefix)
		pool.Retention = time.Hour
		p := New()
		p.SetPools([]lb.Pool{pool})
		const n = freeListLimit + 10
		now := epoch
		var services []lb.Service
		for i := range n {
			s := simpleService(i)
			s.Families = []lb.Family{lb.FamilyOf(pool.Ranges[0].First)}
			p.Put(s)
			services = append(services, s)
		}
		for i, d := range p.Plan(now).Services {
			services[i] = d.Apply(services[i])
			p.Put(services[i])
		}
		for _, s := range services {
			now = now.Add(time.Second)
			p.Delete(s.Key)
			p.Plan(now)
		}
		got := p.pools[0].decision().Freed
		if len(got) != freeListLimit || got[0].Service != services[10].Key || got[len(got)-1].Service != services[n-1].Key {
			t.Fatalf("%s: the free list has %d entries from %v to %v, want %d from %v to %v",
				prefix, len(got), got[0].Service, got[len(got)-1].Service, freeListLimit, services[10].Key, services[n-1].Key)
		}
		// The forgotten ones are as good as new: the lowest is next.
		p.Put(simpleServiceOf(lb.FamilyOf(pool.Ranges[0].First), n))
		d := p.Plan(now).Services[0]
		if want := services[0].Assigned[0]; d.Assignments[0].Address != want {
			t.Errorf("%s: the next is %v, want the forgotten %v", prefix, d.Assignments[0].Address, want)
		}
		if pool.Ranges[0].First.Is4() {
			if err := p.audit(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestBothFamiliesShareTheFreeList(t *testing.T) {
	pool := simplePool("edge", "10.0.0.0/16", "2001:db8::/112")
	p := New()
	p.SetPools([]lb.Pool{pool})
	now := epoch
	const n = freeListLimit
	for i := range n {
		now = now.Add(time.Second)
		s := simpleServiceOf(families[i%2], i)
		p.Put(s)
		p.Put(p.Plan(now).Services[0].Apply(s))
		p.Delete(s.Key)
		p.Plan(now)
	}
	both := simpleServiceOf(lb.IPv4, n)
	both.Families, both.FamilyPolicy = []lb.Family{lb.IPv4, lb.IPv6}, lb.RequireDualStack
	p.Put(both)
	p.Put(p.Plan(now).Services[0].Apply(both))
	p.Delete(both.Key)
	p.Plan(now.Add(time.Second))
	got := p.pools[0].decision().Freed
	if len(got) != freeListLimit || got[0].Service != simpleService(2).Key || got[n-1].Service != both.Key || got[n-2].Service != both.Key {
		t.Errorf("the free list has %d entries from %v to %v, %v", len(got), got[0].Service, got[len(got)-2].Service, got[len(got)-1].Service)
	}
	if err := p.audit(); err != nil {
		t.Error(err)
	}
}

func TestTheNextTimeWorthPlanningIsTheEndOfAReservation(t *testing.T) {
	pool := simplePool("edge", "198.51.100.0/31", "2001:db8::/127")
	pool.Retention = time.Minute
	for i, a := range []string{"198.51.100.1", "2001:db8::1"} {
		pool.Freed = append(pool.Freed, lb.FreedAddress{
			Address: netip.MustParseAddr(a), Service: simpleService(i).Key, At: epoch.Add(time.Duration(i) * time.Second),
		})
	}
	p := New()
	p.SetPools([]lb.Pool{pool})
	for _, c := range []struct {
		now, until time.Duration
		reserved   uint64
	}{
		{0, time.Minute, 2},
		{time.Minute - 1, time.Minute, 2},
		{time.Minute, time.Minute + time.Second, 1},
		{30 * time.Second, time.Minute + time.Second, 1}, // time does not go back
		{time.Hour, 0, 0},
	} {
		r := p.Plan(epoch.Add(c.now))
		want := epoch.Add(c.until)
		if c.until == 0 {
			want = time.Time{}
		}
		if !r.Until.Equal(want) {
			t.Errorf("at +%v: plan again at %v, want %v", c.now, r.Until, want)
		}
		if got := p.pools[0].decision(); got.V4.Reserved+got.V6.Reserved != c.reserved {
			t.Errorf("at +%v: %d reserved, want %d", c.now, got.V4.Reserved+got.V6.Reserved, c.reserved)
		}
	}
}

func TestReasonsAreCounted(t *testing.T) {
	histories(t, 200, func(h *history) {
		for range 60 {
			h.happen()
		}
		h.settle()
		want := map[Reason]int{}
		for key := range h.services {
			want[h.planner.services[key].decision.Reason]++
		}
		if got := h.planner.Reasons(); !maps.Equal(got, want) {
			h.t.Errorf("counts %v, want %v", got, want)
		}
	})
}

// Pools of absurd size cost nothing: everything in IPv4 without its buggy
// addresses, everything in IPv6.
func TestAPoolMayBeEverything(t *testing.T) {
	everything := simplePool("everything", "0.0.0.0/0", "::/0")
	everything.AvoidBuggyIPs = true
	p := New()
	p.SetPools([]lb.Pool{everything})
	s := simpleService(0)
	s.Families, s.FamilyPolicy = []lb.Family{lb.IPv6, lb.IPv4}, lb.RequireDualStack
	p.Put(s)
	r := p.Plan(epoch)
	if got, want := r.Services[0].Sentence(), ":: and 0.0.0.1 from pool everything"; got != want {
		t.Errorf("decides %q, want %q", got, want)
	}
	if got, want := r.Pools[0].V4, (Count{Total: 1<<32 - 1<<25, Assigned: 1, Available: 1<<32 - 1<<25 - 1}); got != want {
		t.Errorf("counts %+v of IPv4, want %+v", got, want)
	}
	if got, want := r.Pools[0].V6, (Count{Total: math.MaxUint64, Assigned: 1, Available: math.MaxUint64}); got != want {
		t.Errorf("counts %+v of IPv6, want %+v", got, want)
	}
}
