package report

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

// A random world is whatever speakers may ever write.
type randomWorld struct {
	rng      *rand.Rand
	nodes    []lb.Node
	services []lb.Service
	reports  []Report
	now      time.Time
	written  int
}

func newRandomWorld(seed uint64) *randomWorld {
	w := &randomWorld{rng: rand.New(rand.NewPCG(seed, 7)), now: start}
	for n := range 2 + w.rng.IntN(4) {
		w.nodes = append(w.nodes, lb.Node{Name: fmt.Sprintf("n%d", n), NotReady: w.rng.IntN(5) == 0})
	}
	for n := range 1 + w.rng.IntN(4) {
		serving := lb.NodeEndpoints{"n0": {Ready: 1}}
		w.services = append(w.services, lb.Service{
			Key: key(fmt.Sprint(n)), TrafficPolicy: lb.TrafficCluster, Endpoints: lb.Endpoints{IPv4: serving, IPv6: serving},
			Assigned:      []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n/2)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 10+n/2))},
			AssignedPools: []string{"edge", "edge"},
		})
	}
	for range w.rng.IntN(10) {
		w.write()
	}
	return w
}

func (w *randomWorld) index() *announce.Index {
	s := lb.Snapshot{
		Configuration: "c1", Nodes: w.nodes, Services: w.services, Pools: []lb.Pool{{Name: "edge"}},
		L2Advertisements: []lb.L2Advertisement{{Name: "all"}},
	}
	return announce.NewIndex(s, eligibility.Options{})
}

func (w *randomWorld) addresses() (out []netip.Addr) {
	for _, s := range w.services {
		for _, a := range s.Assigned {
			if w.rng.IntN(3) == 0 {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// write has some node write a report.
func (w *randomWorld) write() {
	w.now = w.now.Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	w.written++
	node := fmt.Sprintf("n%d", w.rng.IntN(6))
	r := Report{
		Node: node, Seen: w.now, Configuration: []string{"c1", "c1", "c2"}[w.rng.IntN(3)], Answers: w.addresses(),
		State: []election.State{election.Alive, election.Alive, election.Joining, election.Leaving, election.Gone}[w.rng.IntN(5)],
		Mute:  w.rng.IntN(8) == 0, Probing: w.addresses(), Withheld: map[netip.Addr]lb.MAC{},
		Interfaces: []lb.Interface{{Name: "eth0", Up: true, Carrier: w.rng.IntN(5) > 0, MAC: lb.MAC{2}, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}}},
	}
	for _, n := range w.nodes {
		if n.Name != node && w.rng.IntN(4) == 0 {
			r.Unheard = append(r.Unheard, n.Name)
		}
	}
	if w.rng.IntN(4) == 0 {
		for _, a := range w.addresses() {
			r.Withheld[a] = lb.MAC{2, 5: 0x99}
		}
	}
	r.Transitions = []Transition{{Since: w.now.Add(-time.Duration(w.rng.IntN(100)) * time.Second), From: fmt.Sprintf("n%d", w.rng.IntN(6)), Addresses: r.Answers}}
	w.reports = slices.DeleteFunc(w.reports, func(o Report) bool { return o.Node == node })
	w.reports = append(w.reports, r)
	for i := range w.reports {
		w.reports[i].Order = i
	}
}

func (w *randomWorld) view(before *View) *View {
	return NewView(before, append([]Report{}, w.reports...), w.now, func(node string) (exists, ready bool) {
		i := slices.IndexFunc(w.nodes, func(n lb.Node) bool { return n.Name == node })
		return i >= 0, i >= 0 && !w.nodes[i].NotReady
	})
}

// A controller keeps what is told.
type controller struct {
	teller   Teller
	view     *View
	says     map[lb.ServiceKey]Condition
	recorded map[netip.Addr]string
}

func newController() *controller {
	return &controller{says: map[lb.ServiceKey]Condition{}, recorded: map[netip.Addr]string{}}
}

// tell tells everything once, and returns what that was.
func (c *controller) tell(w *randomWorld) (news []Telling, again time.Duration) {
	c.view = w.view(c.view)
	var subjects []Subject
	for _, s := range w.services {
		subjects = append(subjects, Subject{s.Key, s.Assigned, c.says[s.Key]})
	}
	for _, t := range c.teller.Tell(w.index(), c.view, subjects, func(a netip.Addr) string { return c.recorded[a] }, w.now) {
		again = sooner(again, t.Again)
		if t.Condition != (Condition{}) && c.says[t.Service] != t.Condition || t.Event != (Event{}) || len(t.Record) > 0 {
			news = append(news, t)
		}
		if t.Condition != (Condition{}) {
			c.says[t.Service] = t.Condition
		}
		maps.Copy(c.recorded, t.Record)
	}
	if until := c.view.Until; !until.IsZero() {
		again = sooner(again, until.Sub(w.now))
	}
	return news, again
}

// rest lets time pass until nothing is to be looked at any more.
func (c *controller) rest(t *testing.T, w *randomWorld) {
	t.Helper()
	for range 100 {
		_, again := c.tell(w)
		if again == 0 {
			return
		}
		w.now = w.now.Add(again)
	}
	t.Fatal("it never rests")
}

// Nothing is told, asked or recorded when nothing has changed, whatever there is.
func TestAConvergedWorldIsToldNothing(t *testing.T) {
	for seed := range uint64(2000) {
		w, c := newRandomWorld(seed), newController()
		for range 3 {
			c.rest(t, w)
			w.now = w.now.Add(time.Duration(w.rng.IntN(100)) * time.Hour)
			before := c.view
			if news, again := c.tell(w); len(news) > 0 || again > 0 {
				t.Fatalf("seed %d: told %+v, and again after %v", seed, news, again)
			}
			if changed, rest := c.view.Changed(before); len(changed) > 0 || rest {
				t.Fatalf("seed %d: changed: %v, %v", seed, changed, rest)
			}
			// Nor does another controller that leads from now on have anything to say.
			c.teller, c.view = Teller{}, nil
			for range 10 {
				news, again := c.tell(w)
				for _, n := range news {
					if n.Event != (Event{}) || n.Condition != (Condition{}) && n.Condition != c.says[n.Service] {
						t.Fatalf("seed %d: a new leader tells %+v", seed, n)
					}
				}
				w.now = w.now.Add(again)
			}
			w.write()
		}
	}
}

// Whom the Service names says so itself, and is believed; and what is told depends
// on the order of nothing.
func TestWhatIsToldIsReported(t *testing.T) {
	announced := 0
	for seed := range uint64(2000) {
		w, c := newRandomWorld(seed), newController()
		c.rest(t, w)
		owners := map[netip.Addr]string{}
		for _, m := range c.view.members {
			for _, a := range c.view.believed[m.Node].Answers {
				owners[a] = m.Node
			}
		}
		for _, s := range w.services {
			says := c.says[s.Key]
			if !says.Announced || slices.ContainsFunc(w.nodes, func(n lb.Node) bool { return c.view.Unknown(n.Name) }) {
				continue // what was true once stays, as long as nobody knows better
			}
			announced++
			for _, a := range s.Assigned {
				if owners[a] == "" {
					t.Fatalf("seed %d: %v says %q, and nobody answers for %v", seed, s.Key, says.Message, a)
				}
			}
		}
		other, o := newRandomWorld(seed), newController()
		other.rng.Shuffle(len(other.reports), reflect.Swapper(other.reports))
		other.rng.Shuffle(len(other.services), reflect.Swapper(other.services))
		o.rest(t, other)
		if !maps.Equal(c.says, o.says) || !maps.Equal(c.recorded, o.recorded) {
			t.Fatalf("seed %d: told\n%v %v\nin another order\n%v %v", seed, c.says, c.recorded, o.says, o.recorded)
		}
	}
	if announced < 200 {
		t.Errorf("%d Services were announced in all", announced)
	}
}

// A View says for which addresses it differs from another: a Service of whose
// addresses it says nothing else, and nothing else differs, is told the same.
func TestWhatDidNotChangeNeedNoLook(t *testing.T) {
	spared := 0
	for seed := range uint64(2000) {
		w, c := newRandomWorld(seed), newController()
		c.rest(t, w)
		before := c.view
		w.write()
		changed, rest := w.view(before).Changed(before)
		if rest {
			continue
		}
		news, _ := c.tell(w)
		for _, n := range news {
			i := slices.IndexFunc(w.services, func(s lb.Service) bool { return s.Key == n.Service })
			if !slices.ContainsFunc(w.services[i].Assigned, func(a netip.Addr) bool { return changed[a] }) {
				t.Fatalf("seed %d: %+v, though only %v changed", seed, n, changed)
			}
		}
		spared++
	}
	if spared < 100 {
		t.Errorf("%d Views differed in addresses alone", spared)
	}
}
