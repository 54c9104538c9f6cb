package election

import (
	"net/netip"
	"slices"
	"testing"
)

func TestStandingIsAMajorityOfThoseKnown(t *testing.T) {
	for _, c := range []struct {
		hears, knows, peers int
		want                Quorum
	}{
		{1, 1, 0, Majority}, // The only node there is.
		{1, 1, 2, Blind},    // There are others, none was ever heard.
		{3, 3, 2, Majority},
		{2, 3, 2, Majority},
		{1, 2, 1, Minority},
		{1, 3, 2, Minority},
		{5, 10, 9, Minority},
		{6, 10, 9, Majority},
	} {
		if got := QuorumOf(c.hears, c.knows, c.peers); got != c.want {
			t.Errorf("hears %d of %d, %d peers: %v, want %v", c.hears, c.knows, c.peers, got, c.want)
		}
	}
}

func TestALedgerStampsWhatIsNewAndKeepsWhatIsHeld(t *testing.T) {
	var l OwnClaims
	l.Witness(40)
	if !l.Set([]netip.Addr{v4}, Majority) || l.Claims()[v4] != claim(Majority, 41) {
		t.Fatalf("first claim: %v", l.Claims())
	}
	before := l.Claims()
	if l.Set([]netip.Addr{v4}, Minority) {
		t.Error("the same set again is a change")
	}
	if !l.Set([]netip.Addr{v4, v6}, Minority) || l.Claims()[v4] != claim(Majority, 41) || l.Claims()[v6] != claim(Minority, 42) {
		t.Errorf("one more: %v", l.Claims())
	}
	if len(before) != 1 {
		t.Errorf("claims handed out earlier have changed: %v", before)
	}
	if !l.Set([]netip.Addr{v6}, Majority) || len(l.Claims()) != 1 {
		t.Errorf("one less: %v", l.Claims())
	}
	if !l.Set([]netip.Addr{v4, v6}, Majority) || l.Claims()[v4] != claim(Majority, 43) {
		t.Errorf("claimed again: %v", l.Claims())
	}
	if l.Witness(7); l.Epoch() != 43 {
		t.Errorf("the clock ran back to %d", l.Epoch())
	}
}

func TestOnlyWhatNobodyContestsIsRaised(t *testing.T) {
	third := netip.MustParseAddr("192.0.2.3")
	var l OwnClaims
	l.Set([]netip.Addr{v4}, Majority)
	l.Set([]netip.Addr{v4, v6}, Minority)
	l.Set([]netip.Addr{v4, v6, third}, Blind)
	l.Witness(10)
	if !l.Raise(func(a netip.Addr) bool { return a == v6 }) {
		t.Error("nothing was raised")
	}
	for a, want := range (Claims{v4: claim(Majority, 1), v6: claim(Minority, 2), third: claim(Majority, 11)}) {
		if l.Claims()[a] != want {
			t.Errorf("%s: %v, want %v", a, l.Claims()[a], want)
		}
	}
	if l.Raise(func(a netip.Addr) bool { return a == v6 }) {
		t.Error("raised twice")
	}
	if !l.Doubt() || l.Claims()[v4] != claim(Blind, 1) || l.Claims()[v6] != claim(Blind, 2) {
		t.Errorf("in doubt: %v", l.Claims())
	}
	if l.Doubt() {
		t.Error("doubted twice")
	}
}

func TestContestedNamesWhatTwoClaim(t *testing.T) {
	members := []Member{
		{Node: "a", Claims: Claims{v4: claim(Majority, 1), v6: claim(Majority, 1)}},
		{Node: "b", Claims: Claims{v6: claim(Blind, 1), v4: claim(Blind, 1)}},
		{Node: "c", Claims: Claims{v6: claim(Blind, 2)}},
		{Node: "d"},
	}
	for self, want := range map[string][]netip.Addr{"a": {v4, v6}, "c": {v6}, "d": nil, "e": nil} {
		if got := Contested(self, members); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", self, got, want)
		}
	}
}

func TestOffersAreTheWeakestClaims(t *testing.T) {
	var l OwnClaims
	l.Set([]netip.Addr{v4, v6}, Majority)
	if l.Offer(nil) {
		t.Error("offering nothing changes something")
	}
	if !l.Offer([]netip.Addr{v6}) || l.Claims()[v4] != claim(Majority, 1) || l.Claims()[v6] != claim(Offered, 1) {
		t.Errorf("offered: %v", l.Claims())
	}
	if l.Offer([]netip.Addr{v6}) {
		t.Error("offering again changes something")
	}
	if !claim(Blind, 9).Beats(claim(Offered, 1), v4, "b", "a") {
		t.Error("an offered claim beats another")
	}
	if !l.Doubt() || l.Claims()[v6].Quorum != Offered {
		t.Errorf("doubted: %v", l.Claims())
	}
	if !l.Offer(nil) || l.Claims()[v6] != claim(Blind, 1) || l.Claims()[v4] != claim(Blind, 1) {
		t.Errorf("offered no more: %v", l.Claims())
	}
	if !l.Raise(func(netip.Addr) bool { return false }) || l.Claims()[v6] != claim(Majority, 2) {
		t.Errorf("raised: %v", l.Claims())
	}
}
