package allocator

import (
	"fmt"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

// However many pools are restricted: a Service has an address of the one that admits it,
// and one that none admits has none, whoever was looked at before.
func TestEachOfManyRestrictedPoolsServesWhomItAdmits(t *testing.T) {
	const n = 20
	w := World{Now: epoch}
	for i := range n {
		p := simplePool(fmt.Sprintf("p%02d", i), fmt.Sprintf("198.51.100.%d/32", i), fmt.Sprintf("2001:db8::%d/128", i))
		p.Allocation = &lb.ServiceAllocation{Namespaces: []string{fmt.Sprint("ns", i)}}
		if i%3 == 0 {
			p.AutoAssign = false
		}
		w.Pools = append(w.Pools, p)
	}
	for i := range n + 1 { // the last is of a namespace that no pool admits
		for _, f := range families {
			s := simpleServiceOf(f, 2*i+int(f))
			s.Key.Namespace = fmt.Sprint("ns", i)
			s.Created = epoch // all are of one age, so that the order is that of their names
			w.Services = append(w.Services, s)
		}
	}
	for _, d := range Plan(w).Services {
		var i int
		if _, err := fmt.Sscanf(d.Service.Namespace, "ns%d", &i); err != nil {
			t.Fatal(err)
		}
		switch {
		case i < n && i%3 > 0:
			if len(d.Assignments) != 1 || d.Assignments[0].Pool != fmt.Sprintf("p%02d", i) {
				t.Errorf("%v holds %v", d.Service, d.Assignments)
			}
		case i < n:
			if d.Reason != NoPool || len(d.Detail.Unasked) != 1 || d.Detail.Unasked[0] != fmt.Sprintf("p%02d", i) {
				t.Errorf("%v: %s", d.Service, d.Sentence())
			}
		default:
			if d.Reason != NoPool || len(d.Detail.Unasked) != 0 {
				t.Errorf("%v: %s", d.Service, d.Sentence())
			}
		}
	}
}

// A Service that waits, and is edited so that a pool admits it, has an address at once; and
// one that ceases to be ours is not short of any.
func TestAnEditOpensThePoolsThatAdmitIt(t *testing.T) {
	for _, f := range families {
		pool := simplePool("edge", "198.51.100.0/32", "2001:db8::/128")
		pool.Allocation = &lb.ServiceAllocation{ServiceSelectors: []lb.Selector{{{Key: "tier", Operator: lb.In, Values: []string{"web"}}}}}
		p := New()
		p.SetPools([]lb.Pool{pool})
		s := simpleServiceOf(f, 1)
		p.Put(s)
		if d := p.Plan(epoch).Services[0]; d.Reason != NoPool || !d.Short {
			t.Errorf("%v: %v, short %v", f, d.Reason, d.Short)
		}
		s.Labels = "tier=web"
		p.Put(s)
		d := p.Plan(epoch).Services[0]
		if d.Reason != Allocated || d.Short {
			t.Errorf("%v, edited: %v, short %v", f, d.Reason, d.Short)
		}
		for _, edit := range []func(*lb.Service){func(s *lb.Service) { s.Released = true }, func(s *lb.Service) { s.Headless = true }} {
			gone := d.Apply(s)
			edit(&gone)
			p.Put(gone)
			if d := p.Plan(epoch).Services[0]; d.Short || len(d.Assignments) > 0 {
				t.Errorf("%v, %+v: short %v", f, d, d.Short)
			}
		}
	}
}
