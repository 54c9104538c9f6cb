package allocator

import (
	"testing"

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
