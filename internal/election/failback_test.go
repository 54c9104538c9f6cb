package election

import (
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestTheOwnerOffersWhatIsNewlyPlacedElsewhere(t *testing.T) {
	const self = "a"
	type step struct {
		role     Role
		placed   string
		fit, met bool
		want     bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing is offered that is placed here", []step{{Owner, "a", true, true, false}, {Owner, "", false, false, false}}},
		{"what is moved is offered until the other one claims it", []step{
			{Owner, "a", true, true, false},
			{Owner, "b", true, true, true},
			{Retiring, "b", true, true, true},
			{Backup, "b", true, true, false},
			{Retiring, "b", true, true, false},
		}},
		{"a move to a node that is not there waits for nothing", []step{
			{Owner, "a", true, true, false},
			{Owner, "b", false, true, false},
			{Owner, "b", true, true, false},
			{Owner, "c", true, true, true},
		}},
		{"what was taken over stays when the other one returns", []step{
			{Owner, "b", false, true, false},
			{Owner, "b", true, true, false},
			{Owner, "a", true, true, false},
			{Owner, "b", true, true, true},
		}},
		{"an heir that dies is no heir", []step{
			{Owner, "b", true, true, true},
			{Retiring, "b", true, true, true},
			{Owner, "b", false, true, false},
			{Owner, "b", true, true, false},
		}},
		{"one that was never heard gets what is its own", []step{
			{Owner, "b", false, false, false},
			{Owner, "b", false, false, false},
			{Owner, "b", true, true, true},
		}},
		{"one that holds it for another reason offers nothing", []step{
			{Owner, "a", true, true, false},
			{Retiring, "a", false, true, false},
			{Retiring, "b", true, true, false},
		}},
		{"a place that was withdrawn and is given again is new", []step{
			{Owner, "b", false, true, false},
			{Owner, "", false, false, false},
			{Owner, "b", true, true, true},
		}},
	} {
		for _, addr := range []netip.Addr{v4, v6} {
			var e Failback
			for i, s := range c.steps {
				if got := e.Offers(addr, self, s.role, s.placed, lb.FailbackNever, s.fit, s.met); got != s.want {
					t.Errorf("%s, %v: step %d: %v", c.name, addr, i, got)
				}
			}
		}
	}
}

func TestAnEstateForgetsWhatIsNotInUse(t *testing.T) {
	var e Failback
	e.Offers(v4, "a", Owner, "b", lb.FailbackNever, true, true)
	e.Offers(v6, "a", Owner, "b", lb.FailbackNever, false, true)
	e.Forget(func(a netip.Addr) bool { return a == v6 })
	if e.Offers(v4, "a", Retiring, "b", lb.FailbackNever, true, true) {
		t.Error("what was forgotten is offered")
	}
	if e.Offers(v6, "a", Owner, "b", lb.FailbackNever, true, true) {
		t.Error("what was remembered is forgotten")
	}
	e.Forget(func(netip.Addr) bool { return false })
	if !e.Offers(v6, "a", Owner, "b", lb.FailbackNever, true, true) {
		t.Error("what was forgotten is remembered")
	}
}

// A move: the owner offers, the placed node claims, and at every moment one of
// the two answers, in whatever order they learn of the place.
func TestAMoveHasNoGapWhoeverLearnsOfItFirst(t *testing.T) {
	for _, first := range []string{"a", "b"} {
		for _, addr := range []netip.Addr{v4, v6} {
			claims := map[string]Claim{"a": claim(Majority, 3)}
			ledgers := map[string]*OwnClaims{"a": {}, "b": {}}
			ledgers["a"].Witness(2)
			ledgers["a"].Set([]netip.Addr{addr}, Majority)
			placed := map[string]string{"a": "a", "b": "a"}
			var failback Failback
			answers := map[string]bool{"a": true}
			// One after the other decides upon the same claims; then all hear.
			round := func() {
				next := map[string]Claim{}
				for _, self := range []string{"a", "b"} {
					cs := []Candidate{{Node: "a", Claim: claims["a"]}, {Node: "b", Claim: claims["b"]}}
					for i := range cs {
						cs[i].State, cs[i].OnLink = Alive, true
					}
					role, _ := RoleOf(self, addr, Place{Node: placed[self]}, cs)
					answers[self] = role != Backup
					var owned, offered []netip.Addr
					if answers[self] {
						owned = []netip.Addr{addr}
					}
					if self == "a" && failback.Offers(addr, self, role, placed[self], lb.FailbackNever, Fit(placed[self], cs), true) {
						offered = owned
					}
					l := ledgers[self]
					l.Witness(claims["a"].Epoch)
					l.Witness(claims["b"].Epoch)
					l.Set(owned, Majority)
					l.Offer(offered)
					next[self] = l.Claims()[addr]
					if !answers["a"] && !answers["b"] {
						t.Fatalf("%s first, %v: nobody answers: %v", first, addr, claims)
					}
				}
				claims = next
			}
			round()
			placed[first] = "b"
			for range 3 {
				round()
			}
			if first == "b" && !answers["a"] {
				t.Errorf("%v: the owner let go before it knew", addr)
			}
			placed["a"], placed["b"] = "b", "b"
			for range 5 {
				round()
			}
			if answers["a"] || !answers["b"] || claims["b"].Quorum != Majority {
				t.Errorf("%s first, %v: %v, %v", first, addr, answers, claims)
			}
		}
	}
}
