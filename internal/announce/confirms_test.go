package announce

import (
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestOnlyClaimsThatTheIntentForesawConfirmIt(t *testing.T) {
	four, six, unused := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::99")
	// Of two addresses in use b is to have both; a decides.
	intent := Intent{Decisions: []Decision{{Address: four, Owner: "b"}, {Address: six, Owner: "b"}}}
	retiring := Intent{Decisions: []Decision{{Address: four, Owner: "b", Role: election.Retiring}, {Address: six, Owner: "b"}}}
	own := Intent{Decisions: []Decision{{Address: four, Owner: "a", Role: election.Owner}, {Address: six, Owner: "b"}}}
	claims := func(quorum election.Quorum, addresses ...netip.Addr) election.Claims {
		c := election.Claims{}
		for _, a := range addresses {
			c[a] = election.Claim{Quorum: quorum, Epoch: 5}
		}
		return c
	}
	eth0 := []lb.Interface{{Name: "eth0", Index: 2, Up: true, Carrier: true}}
	member := func(node string, seq uint64, c election.Claims) election.Member {
		return election.Member{Node: node, State: election.Alive, Interfaces: eth0, Claims: c, Version: election.Version{Boot: 1, Seq: seq}, Sessions: []lb.SessionID{1, 2}}
	}
	with := func(m election.Member, edit func(*election.Member)) election.Member { edit(&m); return m }
	none, majority := claims(election.Majority), election.Majority
	for _, c := range []struct {
		name          string
		intent        Intent
		before, after election.Member
		want          bool
	}{
		{"nothing", intent, member("b", 1, none), member("b", 1, none), true},
		{"the claim of who is to have it", intent, member("b", 1, none), member("b", 2, claims(majority, four)), true},
		{"of both families", intent, member("b", 1, none), member("b", 2, claims(majority, four, six)), true},
		{"and one after the other", intent, member("b", 1, claims(majority, four)), member("b", 2, claims(majority, four, six)), true},
		{"of who is not to have it", intent, member("c", 1, none), member("c", 2, claims(majority, six)), false},
		{"of one of two", intent, member("c", 1, claims(majority, unused)), member("c", 2, claims(majority, unused, six)), false},
		{"of an address that nobody uses", intent, member("c", 1, none), member("c", 2, claims(majority, unused)), true},
		{"no more of one that nobody uses", intent, member("c", 1, claims(majority, unused)), member("c", 2, none), true},
		{"no more of one that somebody does", intent, member("b", 1, claims(majority, six)), member("b", 2, none), false},
		{"no more, and another one", intent, member("b", 1, claims(majority, four)), member("b", 2, claims(majority, six)), false},
		{"of another rank", intent, member("b", 1, claims(election.Minority, four)), member("b", 2, claims(majority, four)), false},
		{"an offer", intent, member("b", 1, none), member("b", 2, claims(election.Offered, four)), false},
		{"of what we answer for until then", retiring, member("b", 1, none), member("b", 2, claims(majority, four)), false},
		{"our own of what is ours", own, member("a", 1, none), member("a", 2, claims(majority, four)), true},
		{
			"what is said with a number that is not known is looked at", intent,
			with(member("c", 1, none), func(m *election.Member) { m.Version = election.Version{} }),
			with(member("c", 1, claims(majority, six)), func(m *election.Member) { m.Version = election.Version{} }), false,
		},
		{"the same number says the same", intent, member("c", 1, none), member("c", 1, none), true},
		{"another member", intent, member("b", 1, none), member("c", 2, none), false},
		{"another state", intent, member("b", 1, none), with(member("b", 2, none), func(m *election.Member) { m.State = election.Suspected }), false},
		{"another interface", intent, member("b", 1, none), with(member("b", 2, none), func(m *election.Member) { m.Interfaces = nil }), false},
		{"another session", intent, member("b", 1, none), with(member("b", 2, none), func(m *election.Member) { m.Sessions = []lb.SessionID{1} }), false},
	} {
		// Whoever comes before or after in the list.
		x, y := member("0", 1, none), member("z", 1, claims(majority, unused))
		y2 := member("z", 2, claims(majority, unused))
		before, after := []election.Member{x, c.before, y}, []election.Member{x, c.after, y2}
		if got := c.intent.Confirms(before, after, "a"); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if c.intent.Confirms(before, after[:2], "a") {
			t.Errorf("%s: a member is gone, which confirms nothing", c.name)
		}
	}
}
