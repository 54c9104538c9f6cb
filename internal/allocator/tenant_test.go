package allocator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// settled carries out what is decided about a world until nothing changes.
func settled(w World) World {
	p := New()
	p.SetPools(w.Pools)
	p.SetNodes(w.Nodes)
	w.Services = slices.Clone(w.Services)
	for _, s := range w.Services {
		p.Put(s)
	}
	for range 20 {
		changed := false
		r := p.Plan(w.Now)
		for _, d := range r.Services {
			i := slices.IndexFunc(w.Services, func(s lb.Service) bool { return s.Key == d.Service })
			if d.Changes(w.Services[i]) {
				w.Services[i], changed = d.Apply(w.Services[i]), true
				p.Put(w.Services[i])
			}
		}
		w.Pools = slices.Clone(w.Pools)
		for i := range w.Pools {
			w.Pools[i].Freed = p.byName[w.Pools[i].Name].decision().Freed
		}
		if !changed {
			break
		}
	}
	return w
}

// What a Service is told is nothing that Services of other namespaces change as long
// as its namespace neither gains nor loses an address by them: otherwise each of their changes
// would be a write for each Service that waits.
func TestNoServiceChangesWhatThoseOfOtherNamespacesAreTold(t *testing.T) {
	told := 0
	worlds(t, 5000, func(g gen, w World) {
		w = settled(w)
		before := map[lb.ServiceKey]Decision{}
		for _, d := range Plan(w).Services {
			before[d.Service] = d
		}
		other := w
		other.Services = slices.DeleteFunc(slices.Clone(w.Services), func(s lb.Service) bool { return s.Key.Namespace == "db" && g.one(60) })
		for range g.IntN(3) {
			if s := g.service(lb.ServiceKey{Namespace: "db", Name: fmt.Sprint("new", g.IntN(9))}); !slices.ContainsFunc(other.Services, func(o lb.Service) bool { return o.Key == s.Key }) {
				other.Services = append(other.Services, s)
			}
		}
		other = settled(other)
		after := slices.DeleteFunc(Plan(other).Services, func(d Decision) bool { return d.Service.Namespace != "web" })
		if slices.ContainsFunc(after, func(d Decision) bool { return !slices.Equal(d.Assignments, before[d.Service].Assignments) }) {
			return // what the namespace holds is its own affair
		}
		for _, d := range after {
			was := before[d.Service]
			told++
			if d.Sentence() != was.Sentence() || d.Reason != was.Reason {
				t.Errorf("%s\n%v was told %v %q,\nby what others did %v %q\nin %s", show(w), d.Service, was.Reason, was.Sentence(), d.Reason, d.Sentence(), show(other))
				return
			}
		}
	})
	if told < 100 {
		t.Errorf("only %d Services were told the same", told)
	}
}

// No message names a pool that does not admit the Service, unless the Service holds
// an address of it, or asked for one by its name.
func TestNoMessageNamesAPoolThatDoesNotAdmitTheService(t *testing.T) {
	worlds(t, 5000, func(_ gen, w World) {
		for i := range w.Pools {
			w.Pools[i].Name = "pool-" + w.Pools[i].Name // which is no other word
		}
		for _, d := range Plan(w).Services {
			s := w.Services[slices.IndexFunc(w.Services, func(s lb.Service) bool { return s.Key == d.Service })]
			for i := range w.Pools {
				p := &w.Pools[i]
				holds := slices.ContainsFunc(d.Assignments, func(a Assignment) bool { return a.Pool == p.Name })
				if strings.Contains(d.Sentence(), p.Name) && !holds && !slowlyAdmits(p, &s) {
					t.Errorf("%v is told of pool %s: %s", d.Service, p.Name, d.Sentence())
				}
			}
		}
	})
}

// Many wait for one full pool; somebody else makes a Service and removes it, for which
// another pool has an address. Nobody who waits has to be told.
func TestThoseWhoWaitAreNotToldOfWhatOthersDo(t *testing.T) {
	for _, family := range families {
		p := New()
		lab := simplePool("lab", "192.0.2.0/32", "2001:db8:1::/128")
		lab.Allocation = &lb.ServiceAllocation{Namespaces: []string{"db"}}
		p.SetPools([]lb.Pool{simplePool("edge", "198.51.100.0/32", "2001:db8::/128"), lab})
		for i := range 100 {
			s := simpleServiceOf(family, i)
			s.Key.Namespace = "web"
			p.Put(s)
		}
		for _, d := range p.Plan(epoch).Services {
			p.Put(d.Apply(p.services[d.Service].Service))
		}
		p.Plan(epoch)
		for i := range 3 {
			s := simpleServiceOf(family, 1000+i)
			s.Key.Namespace = "db"
			p.Put(s)
			r := p.Plan(epoch.Add(time.Minute))
			if len(r.Services) != 1 || r.Services[0].Reason != Allocated {
				t.Fatalf("%d decisions, want that of %v: %+v", len(r.Services), s.Key, r.Services)
			}
			p.Put(r.Services[0].Apply(s))
			if r = p.Plan(epoch.Add(time.Minute)); len(r.Services) != 1 {
				t.Errorf("%d decisions once it has its address", len(r.Services))
			}
			p.Delete(s.Key)
			if r = p.Plan(epoch.Add(time.Hour)); len(r.Services) != 0 {
				t.Errorf("%d decisions once %v is gone", len(r.Services), s.Key)
			}
		}
	}
}
