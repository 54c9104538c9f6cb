package membership

import (
	"net/netip"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// blockedTo returns by which protocols gossip of a member is blocked to another one.
func (m *virtual) blockedTo(node string) election.Protocols {
	for _, b := range m.Blocked() {
		if b.Node == node {
			return b.Protocols
		}
	}
	return 0
}

// all reports whether something holds between any two members.
func (w *world) all(holds func(m, other *virtual) bool) bool {
	for _, m := range w.members {
		for _, other := range w.members {
			if m != other && !holds(m, other) {
				return false
			}
		}
	}
	return true
}

// memberlist says by a line of its log that it had to connect: if it words that in
// another way, this is not noticed any more.
func TestWherePacketsAreLostAllStayMembersAndAreToldByConnections(t *testing.T) {
	for seed := range uint64(2) { // IPv6 and IPv4
		within(t, seed, 4, func(w *world) {
			blocked := time.Now()
			w.lan.filter(func(netip.Addr, netip.Addr) bool { return true })
			w.await("all tell that UDP is blocked", 10*time.Second, func() bool {
				return w.all(func(m, other *virtual) bool { return m.blockedTo(w.node(other.host)) == election.UDP })
			})
			told := time.Since(blocked)
			owner := w.members[1]
			claimed := time.Now()
			owner.Publish(Local{Interfaces: owner.interfaces(), Owned: []netip.Addr{vip4, vip6}})
			w.await("all know the new claims", time.Second, func() bool {
				return w.all(func(m, _ *virtual) bool {
					o, _ := find(m.Members(), w.node(owner.host))
					return !o.Claims[vip4].None() && !o.Claims[vip6].None()
				})
			})
			t.Logf("told after %v; new claims known after %v", told, time.Since(claimed))
			time.Sleep(30 * time.Second)
			if wrong := w.wronged(blocked); len(wrong) > 0 {
				t.Errorf("members were lost:\n%s", describe(wrong, blocked))
			}
			w.lan.filter(nil)
			w.await("nothing is blocked any more", 10*time.Second, func() bool {
				return w.all(func(m, _ *virtual) bool { return len(m.Blocked()) == 0 })
			})
		})
	}
}

// Others ping in one's stead and pass on what is said, so gossip goes on.
func TestBothSidesTellThatUDPIsBlockedBetweenThemAlone(t *testing.T) {
	for _, c := range []struct {
		name    string
		seed    uint64 // IPv6 and IPv4
		size    int
		one     bool // packets pass one way
		bothSay bool
	}{
		{"three, IPv6", 0, 3, false, true},
		{"six, IPv4", 1, 6, false, true},
		{"one way, IPv6", 2, 4, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, c.seed, c.size, func(w *world) {
				x, y := w.members[0], w.members[1]
				blocked := time.Now()
				w.lan.filter(func(from, to netip.Addr) bool {
					there, back := from == w.addr(0) && to == w.addr(1), from == w.addr(1) && to == w.addr(0)
					return there || back && !c.one
				})
				told := func() bool {
					says := y.blockedTo(w.node(0)) == election.UDP
					return says && (!c.bothSay || x.blockedTo(w.node(1)) == election.UDP)
				}
				w.await("it is told", 20*time.Second, told)
				t.Logf("told after %v", time.Since(blocked))
				for range 40 {
					time.Sleep(500 * time.Millisecond)
					w.all(func(m, other *virtual) bool {
						if is := m.blockedTo(w.node(other.host)); is != 0 && m.host+other.host != 1 {
							t.Errorf("%s says that %v is blocked to %s", w.node(m.host), is, w.node(other.host))
						}
						return true
					})
					if !told() {
						t.Error("it is not told any more")
					}
				}
				if wrong := w.wronged(blocked); len(wrong) > 0 {
					t.Errorf("members were lost:\n%s", describe(wrong, blocked))
				}
				w.lan.filter(nil)
				w.await("nothing is blocked any more", 10*time.Second, func() bool {
					return w.all(func(m, _ *virtual) bool { return len(m.Blocked()) == 0 })
				})
			})
		})
	}
}

func TestLossIsNotTakenForAFilter(t *testing.T) {
	for seed, loss := range []float64{0.05, 0.1} {
		within(t, uint64(seed), 5, func(w *world) {
			w.lan.lose(loss)
			for range 120 {
				time.Sleep(500 * time.Millisecond)
				w.all(func(m, other *virtual) bool {
					if is := m.blockedTo(w.node(other.host)); is != 0 {
						t.Errorf("at a loss of %v %s says that %v is blocked to %s", loss, w.node(m.host), is, w.node(other.host))
					}
					return true
				})
			}
		})
	}
}
