package gobgp

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// A judge is a real router, whose word on a session counts. What one of them is
// asked the other is asked too, in the same test.
type judge interface {
	// name is its name in lower case.
	name() string
	// as is its autonomous system.
	as() uint32
	// space is its network namespace.
	space() namespace
	// neighbor makes an address of ours, which no other test has, a neighbor of
	// the router's for this test, and returns the peer for our side.
	neighbor(t *testing.T, family string, as uint32, traits ...trait) lb.BGPPeer
	// unnumbered does it for a session over the link-local addresses of a wire.
	// There is one at a time.
	unnumbered(t *testing.T, password string, traits ...trait) lb.BGPPeer
	// carry makes these the families of the neighbor's session from now on, of a
	// neighbor with bothFamilies.
	carry(t *testing.T, p lb.BGPPeer, families ...string)
	// sign makes a password the neighbor's from now on.
	sign(t *testing.T, p lb.BGPPeer, password string)

	// up reports whether the router has the session established.
	up(t *testing.T, p lb.BGPPeer) bool
	// lastWord is why it lost the session, as the router puts it.
	lastWord(t *testing.T, p lb.BGPPeer) string
	// count is how many prefixes of a family it has from a neighbor; prefixes are
	// they.
	count(t *testing.T, p lb.BGPPeer, family string) int
	prefixes(t *testing.T, p lb.BGPPeer, family string) []string
	// heard is what it was told of one of them; false when it was not.
	heard(t *testing.T, p lb.BGPPeer, prefix string) (heard, bool)
	// leads are the next hops to which it sends the traffic of a prefix: those of
	// its kernel, if it has its routes there.
	leads(t *testing.T, prefix string) []string
	// print is all that it prints of it, with our own address left out.
	print(t *testing.T, p lb.BGPPeer, prefix string) any

	// reset ends the session with Cease; it may come back at once.
	reset(t *testing.T, p lb.BGPPeer)
	// refresh asks for a family's whole table (RFC 2918).
	refresh(t *testing.T, p lb.BGPPeer, family string)
	// pid is the process that holds the sessions.
	pid(t *testing.T) int
}

// A trait is what a router is told of a neighbor beyond its address and AS.
type trait uint8

const (
	// helper waits for the neighbor's graceful restart.
	helper trait = iota
	// onlyNear takes packets from no further than the wire (RFC 5082).
	onlyNear
	// farAway lets the neighbor be some hops away.
	farAway
	// watched has BFD watch the neighbor.
	watched
	// bothFamilies carries IPv4 and IPv6; withIPv6NextHop lets routes of IPv4
	// have one (RFC 8950).
	bothFamilies
	withIPv6NextHop
	// oldRouter knows of no capabilities (RFC 5492).
	oldRouter
	// provider, customer, peer and routeServer are the router's role towards us
	// (RFC 9234); rolesRequired is a provider that refuses neighbors that tell none.
	provider
	customer
	peer
	routeServer
	rolesRequired
	// twoRoutes takes two of a family, and ends the session for a third.
	twoRoutes
)

// What a router heard is what it makes of one route of ours.
type heard struct {
	nextHop        netip.Addr
	localPref, med bgp.Metric
	communities    string
}

func (h heard) String() string {
	return fmt.Sprintf("next hop %v local-pref %v med %v communities %s", h.nextHop, h.localPref, h.med, h.communities)
}

// A candidate is a router there may be, and its column in the table of answers.
type candidate struct {
	name, title string
	need        func(t *testing.T) judge
}

var judges = []candidate{
	{"frr", "FRR 8.4", func(t *testing.T) judge { return needFRR(t) }},
	{"bird", "BIRD 2.0", func(t *testing.T) judge { return needBIRD(t) }},
	{"openbgpd", "OpenBGPD 7.7", func(t *testing.T) judge { return needOpenBGPD(t) }},
}

// byJudges runs a test against each router, at once.
func byJudges(t *testing.T, test func(t *testing.T, j judge)) {
	t.Helper()
	for _, j := range judges {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			router := j.need(t)
			judged(t, j.name, false)
			test(t, router)
		})
	}
}

// byJudgesAndFamilies runs it for sessions of both families.
func byJudgesAndFamilies(t *testing.T, test func(t *testing.T, j judge, family string)) {
	t.Helper()
	byJudges(t, func(t *testing.T, j judge) {
		for _, family := range []string{"ipv4", "ipv6"} {
			t.Run(family, func(t *testing.T) {
				t.Parallel()
				test(t, j, family)
			})
		}
	})
}

func familyName(prefix string) string {
	if strings.Contains(prefix, ":") {
		return "ipv6"
	}
	return "ipv4"
}

// holds waits until a router has these prefixes of a family from a neighbor, and
// no others.
func holds(t *testing.T, j judge, p lb.BGPPeer, family string, prefixes ...string) {
	t.Helper()
	slices.Sort(prefixes)
	eventually(t, within, func() (bool, any) {
		got := j.prefixes(t, p, family)
		slices.Sort(got)
		return slices.Equal(got, prefixes), fmt.Sprintf("%v, want %v", got, prefixes)
	})
}

// told waits until what a router heard of a prefix is so.
func told(t *testing.T, j judge, p lb.BGPPeer, prefix string, so func(heard) bool) {
	t.Helper()
	eventually(t, within, func() (bool, any) {
		h, ok := j.heard(t, p, prefix)
		return ok && so(h), fmt.Sprintf("heard %v: %v", ok, h)
	})
}

// down waits until a router has lost the session.
func down(t *testing.T, j judge, p lb.BGPPeer) {
	t.Helper()
	eventually(t, within, func() (bool, any) { return !j.up(t, p), "it is up" })
}

// silenced stops a router's process while something else happens.
func silenced(t *testing.T, j judge, while func()) {
	t.Helper()
	pid := j.pid(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}()
	while()
}

func readPID(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// sources are the addresses of ours on a router's wire that no test has: the
// numbers from 10 to 249.
type sources struct {
	mu   sync.Mutex
	free []int
}

func newSources() *sources {
	s := &sources{}
	for n := 10; n < 250; n++ {
		s.free = append(s.free, n)
	}
	return s
}

// take returns one for a test, on wire w. What was given back rests longest.
func (s *sources) take(t *testing.T, wire int, family string) netip.Addr {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		t.Fatal("all our addresses are in use")
	}
	n := s.free[0]
	s.free = s.free[1:]
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free = append(s.free, n)
	})
	if family == "ipv4" {
		return netip.MustParseAddr(fmt.Sprintf("192.0.%d.%d", wire, n))
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", wire, n))
}

// vias are the next hops of the router's kernel for a prefix.
func vias(ns namespace, prefix string) []string {
	var all []string
	fields := strings.Fields(kernelRoute(ns, prefix))
	for i, f := range fields {
		if f == "via" && i+1 < len(fields) {
			via := fields[i+1]
			if via == "inet6" && i+2 < len(fields) {
				via = fields[i+2]
			}
			all = append(all, via)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
