package speaker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// on places both addresses.
func on(node string) func(*lb.Snapshot) {
	return func(s *lb.Snapshot) { s.Services[0].Placed = []string{node, node} }
}

// crash ends a node as far as the wire and gossip are concerned.
func (w *fakeWorld) crash(node string) {
	w.node(node).link.Set(nil)
	w.hub.become(node, election.Gone)
}

// startOn starts with the Service placed on a node that alone may announce it, until it
// does.
func (w *fakeWorld) startOn(node string) {
	w.cluster.edit(only(node))
	w.cluster.edit(on(node))
	w.start()
	w.cluster.edit(anybody)
	w.rest()
}

func TestNothingFailsBackWhereverItIsRecorded(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.startOn("a")
		w.crash("a")
		w.rest()
		w.hub.become("a", election.Alive)
		w.rest()
		if got := w.who(v4) + w.who(v6); got != "bb" {
			t.Errorf("%q answers", got)
		}

		// The record follows, and nothing moves. What the controller moves, moves.
		w.cluster.edit(on("b"))
		w.rest()
		w.owned("b")
		w.cluster.edit(on("a"))
		w.rest()
		w.owned("a")
	})
}

func TestThePlaceToFailBackToIsRemembered(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(func(s *lb.Snapshot) {
			on("a")(s)
			s.L2Advertisements[0].Failback = lb.FailbackImmediate
		})
		w.start()
		w.crash("a")
		w.rest()
		time.Sleep(time.Minute)
		w.hub.become("a", election.Alive)
		w.rest()
		w.owned("a")
	})
}

// While a cluster starts, the first speaker announces everything, and gives the
// others what is placed on them.
func TestANodeThatIsHeardForTheFirstTimeGetsWhatIsPlacedThere(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.hub.become("b", election.Gone)
		w.cluster.edit(on("b"))
		w.start()
		if got := w.who(v4) + w.who(v6); got != "aa" {
			t.Errorf("%q answers", got)
		}
		time.Sleep(15 * time.Second)
		w.hub.become("b", election.Alive)
		w.rest()
		w.owned("b")
	})
}

// Whoever gives an address away answers until the new owner is heard on the
// wire, or ought to have been, even if it learns of the claim at once.
func TestTheOwnerLingersWhenItsOfferIsTaken(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.lan.deaf = true
		w.hub.delay = 0
		w.startOn("a")
		w.owned("a")
		w.cluster.edit(on("b"))
		for range 1000 {
			if w.node("b").link.answers(v4) {
				break
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(core.Linger / 2)
		synctest.Wait()
		w.owned("a b")
		time.Sleep(core.Linger)
		synctest.Wait()
		w.owned("b")
	})
}

func TestAClaimIsToldOfOnlyOnceItIsAnswered(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.startOn("a")
		w.owned("a")
		b := w.node("b")
		stuck := make(chan struct{}) // the kernel has not let b hear questions yet
		b.link.mu.Lock()
		b.link.stuck = stuck
		b.link.mu.Unlock()
		w.cluster.edit(on("b"))
		time.Sleep(time.Second)
		synctest.Wait()
		if owned := w.claimedBy("b"); len(owned) > 0 || !b.link.answers(v4) {
			t.Errorf("claims %v while its link is told to answer (%v)", owned, b.link.answers(v4))
		}
		if !w.node("a").link.answers(v4) || !w.node("a").link.answers(v6) {
			t.Error("its predecessor has stopped answering")
		}
		b.link.mu.Lock()
		b.link.stuck = nil
		b.link.mu.Unlock()
		close(stuck)
		w.rest()
		w.owned("b")
	})
}

// absent takes the Service away, to come into being later.
func absent(s *lb.Snapshot) { s.Services = nil }

// begins adds the Service with its place, and checks that nobody but that node ever
// answers for it.
func (w *fakeWorld) begins(service lb.Service, node string) {
	w.t.Helper()
	w.cluster.edit(func(s *lb.Snapshot) {
		s.Services = []lb.Service{service}
		on(node)(s)
	})
	for range 500 {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := w.who(v4) + w.who(v6); got != "" && got != node && got != node+node {
			w.t.Fatalf("%q answers, placed on %s", got, node)
		}
	}
	w.owned(node)
}

func TestANewAddressBeginsWhereItIsPlaced(t *testing.T) {
	for _, node := range []string{"a", "b"} {
		inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
			service := w.cluster.snapshot.Services[0]
			w.cluster.edit(absent)
			w.start()
			w.begins(service, node)

			// It is gone, and comes back to another.
			w.cluster.edit(absent)
			w.rest()
			w.owned("")
			w.begins(service, map[string]string{"a": "b", "b": "a"}[node])
		})
	}
}

// A node whose news are old is not waited for any longer than that takes to see, and
// gets the address when it knows.
func TestANewAddressDoesNotWaitForANodeThatDoesNotKnowOfIt(t *testing.T) {
	for _, node := range []string{"a", "b"} {
		inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
			other := map[string]string{"a": "b", "b": "a"}[node]
			service := w.cluster.snapshot.Services[0]
			w.cluster.edit(absent)
			w.start()
			w.cluster.delay(node, true)
			w.cluster.edit(func(s *lb.Snapshot) {
				s.Services = []lb.Service{service}
				on(node)(s)
			})
			w.rest()
			w.owned("")
			time.Sleep(3 * time.Second)
			synctest.Wait()
			w.owned(other)
			w.cluster.delay(node, false)
			w.rest()
			w.owned(node)
		})
	}
}

// A node that the others elect, and that does not know that it may have the address
// because its news are old, is passed over.
func TestAnHeirThatDoesNotKnowOfItsLuckIsPassedOver(t *testing.T) {
	for heir, other := range map[string]string{"a": "c", "c": "a"} {
		inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
			w.cluster.edit(only("b"))
			w.start()
			w.cluster.delay(heir, true)
			w.cluster.edit(anybody)
			w.rest()
			w.owned("b")
			w.crash("b")
			time.Sleep(3 * time.Second)
			synctest.Wait()
			w.owned(other)

			// When it hears of it, it is late.
			w.cluster.delay(heir, false)
			w.rest()
			w.owned(other)
		})
	}
}
