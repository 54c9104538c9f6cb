package allocator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A gen makes small worlds in which everything collides: sixteen addresses of
// each family, a handful of pools, Services that ask for anything.
type gen struct{ *rand.Rand }

func (g gen) one(percent int) bool { return g.IntN(100) < percent }

func pickOf[T any](g gen, of ...T) T { return of[g.IntN(len(of))] }

func (g gen) addr(f lb.Family) netip.Addr {
	n := byte(g.IntN(16))
	if f == lb.IPv4 {
		return netip.AddrFrom4([4]byte{10, 0, 0, n + 248}) // .255 and .0 among them
	}
	a := netip.MustParseAddr("fd00::").As16()
	a[15] = n
	return netip.AddrFrom16(a)
}

func (g gen) family() lb.Family { return pickOf(g, lb.IPv4, lb.IPv6) }

func plus(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

func (g gen) ranges() []lb.AddressRange {
	used := map[netip.Addr]bool{}
	for range 1 + g.IntN(3) {
		f := g.family()
		base := netip.MustParseAddr("10.0.0.248")
		if f == lb.IPv6 {
			base = netip.MustParseAddr("fd00::")
		}
		first := g.IntN(16)
		for i := first; i < min(16, first+1+g.IntN(5)); i++ {
			used[plus(base, i)] = true
		}
	}
	var rs []lb.AddressRange
	all := make([]netip.Addr, 0, len(used))
	for a := range used {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	for _, a := range all {
		if n := len(rs); n > 0 && rs[n-1].Last.Next() == a {
			rs[n-1].Last = a
			continue
		}
		rs = append(rs, lb.AddressRange{First: a, Last: a})
	}
	return rs
}

// divided returns pools as they are handed to a planner, whatever was changed since they
// were divided last.
func divided(pools []lb.Pool) []lb.Pool {
	out := slices.Clone(pools)
	for i := range out {
		out[i].Ranges, out[i].Lost = ranges.Union(out[i].Ranges, out[i].Lost), nil
	}
	origin.Divide(out)
	return out
}

func (g gen) labels() map[string]string { return map[string]string{"tier": pickOf(g, "a", "b")} }

func (g gen) selector() lb.Selector {
	return lb.Selector{{Key: "tier", Operator: lb.In, Values: []string{pickOf(g, "a", "b", "c")}}}
}

func (g gen) poolName() string { return pickOf(g, "edge", "lab", "core", "dmz") }

func (g gen) key() lb.ServiceKey {
	return lb.ServiceKey{Namespace: pickOf(g, "web", "db"), Name: pickOf(g, "a", "b", "c", "d", "e", "f")}
}

func (g gen) pool(name string) lb.Pool {
	p := lb.Pool{
		Name: name, Created: epoch.Add(time.Duration(g.IntN(3)) * time.Hour), Ranges: g.ranges(),
		AvoidBuggyIPs: g.one(30), AutoAssign: g.one(80), SharedAcrossNamespaces: g.one(40),
		Strategy: pickOf(g, lb.LeastRecentlyUsed, lb.FirstFree, lb.Hash), Drain: g.one(10), Deleting: g.one(5),
		Orphans: pickOf(g, lb.OrphanKeep, lb.OrphanKeep, lb.OrphanReassign),
	}
	if g.one(40) {
		p.Retention = time.Duration(1+g.IntN(20)) * time.Second
	}
	if g.one(40) {
		a := &lb.ServiceAllocation{Priority: g.IntN(4), PerNamespaceLimit: pickOf(g, 0, 0, 1, 2, 3)}
		if g.one(40) {
			a.Namespaces = []string{pickOf(g, "web", "db", "none")}
		}
		if g.one(30) {
			a.NamespaceSelectors = []lb.Selector{g.selector()}
		}
		if g.one(30) {
			a.ServiceSelectors = []lb.Selector{g.selector()}
		}
		p.Allocation = a
	}
	return p
}

func (g gen) nodes() (nodes []lb.Node) {
	for i := range g.IntN(3) {
		nodes = append(nodes, lb.Node{Name: fmt.Sprint("n", i), Addresses: []netip.Addr{g.addr(g.family())}})
	}
	return nodes
}

func (g gen) external() (all []lb.ExternalIP) {
	for range g.IntN(4) {
		all = append(all, lb.ExternalIP{Address: g.addr(g.family()), Service: lb.ServiceKey{Namespace: pickOf(g, "web", "db"), Name: pickOf(g, "a", "b", "other")}})
	}
	return all
}

// requests fills in what a user can write into a Service.
func (g gen) requests(s *lb.Service) {
	s.Labels, s.NamespaceLabels = lb.LabelsOf(g.labels()), map[string]string{"tier": map[string]string{"web": "a", "db": "b"}[s.Key.Namespace]}
	s.Headless, s.Released = g.one(3), g.one(3)
	if s.Released && g.one(50) {
		s.Released, s.Foreign = false, true
	}
	s.FamilyPolicy = pickOf(g, lb.SingleStack, lb.PreferDualStack, lb.RequireDualStack)
	f := g.family()
	s.Families = []lb.Family{f}
	if g.one(60) {
		s.Families = []lb.Family{f, lb.IPv4 + lb.IPv6 - f}
	}
	if g.one(4) {
		s.Families = nil
	}
	s.Ports = nil
	for _, n := range []uint16{53, 80, 443} {
		if g.one(50) {
			s.Ports = append(s.Ports, lb.Port{Protocol: lb.TCP, Number: n})
		}
	}
	s.TrafficPolicy = pickOf(g, lb.TrafficCluster, lb.TrafficLocal)
	s.PodSelector = pickOf(g, "app=x", "app=y")
	s.Request = lb.Request{SharingKey: pickOf(g, "", "", "k", "k", "l"), Reallocate: pickOf(g, "", "", "1", "2")}
	if g.one(20) {
		s.Request.Pool = g.poolName()
	}
	for _, f := range families {
		if g.one(20) {
			s.Request.Addresses = append(s.Request.Addresses, g.addr(f))
		}
	}
	if g.one(3) {
		s.Request.Problems = []string{"loadBalancerIPs: cannot be understood"}
	}
}

func (g gen) service(key lb.ServiceKey) lb.Service {
	s := lb.Service{Key: key, UID: fmt.Sprint(g.Uint32()), Created: epoch.Add(time.Duration(g.IntN(5)) * time.Minute)}
	g.requests(&s)
	return s
}

// world is a snapshot with any status at all: held wrongly, twice, of no pool.
func (g gen) world() World {
	w := World{Now: epoch.Add(time.Hour), Nodes: g.nodes(), External: g.external()}
	for _, name := range []string{"edge", "lab", "core"} {
		if !g.one(80) {
			continue
		}
		p := g.pool(name)
		for range g.IntN(6) {
			e := lb.FreedAddress{Address: g.addr(g.family()), At: w.Now.Add(-time.Duration(g.IntN(30)) * time.Second)}
			if g.one(60) {
				e.Service = g.key()
			}
			p.Freed = append(p.Freed, e)
		}
		for range g.IntN(3) {
			p.Records = append(p.Records, g.addr(g.family()))
		}
		slices.SortStableFunc(p.Freed, func(a, b lb.FreedAddress) int { return a.At.Compare(b.At) })
		w.Pools = append(w.Pools, p)
	}
	seen := map[lb.ServiceKey]bool{}
	for range g.IntN(10) {
		key := g.key()
		if seen[key] {
			continue
		}
		seen[key] = true
		s := g.service(key)
		for range pickOf(g, 0, 0, 1, 1, 2, 3) {
			s.Assigned = append(s.Assigned, g.addr(g.family()))
			s.AssignedPools = append(s.AssignedPools, pickOf(g, "", g.poolName(), g.poolName()))
			if last := len(s.Assigned) - 1; s.AssignedPools[last] != "" && g.one(20) {
				s.Withdrawn = append(s.Withdrawn, s.Assigned[last])
			}
		}
		if g.one(10) {
			s.Others = []string{"lb.example.com"}
		}
		s.Reallocated = pickOf(g, "", "1")
		s.Terms = pickOf(g, "", terms(&s), terms(&s), "others")
		w.Services = append(w.Services, s)
	}
	w.Pools = divided(w.Pools)
	return w
}

// crowd is a world in which all want to share, most of them pairs.
func (g gen) crowd() World {
	w := g.world()
	for i := range w.Pools {
		w.Pools[i].Drain, w.Pools[i].Deleting = false, false
	}
	w.Pools = divided(w.Pools)
	var homes [][2]netip.Addr
	for range 3 {
		homes = append(homes, [2]netip.Addr{g.addr(lb.IPv4), g.addr(lb.IPv6)})
	}
	for i := range w.Services {
		s := &w.Services[i]
		s.Request = lb.Request{SharingKey: pickOf(g, "k", "k", "k", "l")}
		s.TrafficPolicy, s.Headless, s.Released, s.Foreign = lb.TrafficCluster, false, false, false
		s.Families = pickOf(g, []lb.Family{lb.IPv4, lb.IPv6}, []lb.Family{lb.IPv6, lb.IPv4}, []lb.Family{lb.IPv4})
		s.Ports = []lb.Port{{Protocol: lb.TCP, Number: pickOf[uint16](g, 53, 80, 443)}}
		s.Assigned, s.AssignedPools = nil, nil
		s.Terms = pickOf(g, "", terms(s), terms(s), "others")
		if home := pickOf(g, homes...); g.one(60) {
			for f, a := range home {
				if g.one(90) && f < len(s.Families) {
					s.Assigned = append(s.Assigned, a)
				}
			}
		}
	}
	return w
}

func (g gen) shuffled(w World) World {
	w.Services, w.Pools, w.Nodes = slices.Clone(w.Services), slices.Clone(w.Pools), slices.Clone(w.Nodes)
	w.External = slices.Clone(w.External)
	g.Shuffle(len(w.External), reflect.Swapper(w.External))
	g.Shuffle(len(w.Services), reflect.Swapper(w.Services))
	g.Shuffle(len(w.Pools), reflect.Swapper(w.Pools))
	g.Shuffle(len(w.Nodes), reflect.Swapper(w.Nodes))
	return w
}

func outline(d Decision) slowDecision {
	o := slowDecision{Service: d.Service, Assigned: d.Assignments, Reason: d.Reason, Reallocated: d.Reallocated, Left: d.Left, Terms: d.Terms}
	for _, r := range d.Released {
		o.Released = append(o.Released, r.Address)
	}
	return o
}

func worldOf(seed uint64) (gen, World) {
	g := gen{rand.New(rand.NewPCG(seed, 3))}
	return g, g.world()
}

func worlds(t *testing.T, n int, f func(g gen, w World)) {
	t.Helper()
	if testing.Short() {
		n /= 10
	}
	for seed := range uint64(n) {
		f(worldOf(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestTheSlowAndObviousAllocatorAgrees(t *testing.T) {
	worlds(t, 10000, func(g gen, w World) {
		for _, w := range []World{w, g.crowd()} {
			got, want := Plan(w).Services, planSlowly(w)
			for i := range want {
				if o := outline(got[i]); !reflect.DeepEqual(o, want[i]) {
					t.Errorf("%+v\nin %s\ndecides %+v\n   slow %+v", got[i].Sentence(), show(w), o, want[i])
					return
				}
			}
		}
	})
}

// The same, for as long as somebody likes to search.
func FuzzTheSlowAllocatorAgrees(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		w := gen{rand.New(rand.NewPCG(a, b))}.world()
		got, want := Plan(w).Services, planSlowly(w)
		for i := range want {
			if o := outline(got[i]); !reflect.DeepEqual(o, want[i]) {
				t.Fatalf("in %s\ndecides %+v\n   slow %+v", show(w), o, want[i])
			}
		}
	})
}

func show(w World) string {
	out := ""
	for _, p := range w.Pools {
		out += fmt.Sprintf("  pool %+v alloc %+v\n", p, p.Allocation)
	}
	for _, s := range w.Services {
		out += fmt.Sprintf("  %+v\n", s)
	}
	return out + fmt.Sprintf("  nodes %v", w.Nodes)
}

func TestThePlanDoesNotDependOnTheOrderOfItsInput(t *testing.T) {
	worlds(t, 3000, func(g gen, w World) {
		if a, b := Plan(w), Plan(g.shuffled(w)); !reflect.DeepEqual(a, b) {
			t.Errorf("depends on the order:\n%v\n%v", a, b)
		}
	})
}
