package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/proof"
)

// Three hosts on one segment: one answers by its speaker, one by its kernel, which has
// the same addresses left behind, and one asks as a client would.
func TestAskHearsEveryStationThatAnswers(t *testing.T) {
	sw, owner, other, asker := newHost(t, "switch"), newHost(t, "owner"), newHost(t, "other"), newHost(t, "asker")
	sw.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	sw.ip("link", "set", "br0", "up")
	for i, h := range []host{owner, other, asker} {
		port := fmt.Sprintf("p%d", i)
		cable(sw, port, h, "eth0")
		sw.ip("link", "set", port, "master", "br0")
		h.ip("address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		h.ip("address", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", "eth0")
	}
	four, six := netip.MustParseAddr("192.0.2.80"), netip.MustParseAddr("2001:db8::80")
	nobody, kernel := netip.MustParseAddr("2001:db8::90"), netip.MustParseAddr("192.0.2.2")
	speaker, _ := owner.runLink(Options{})
	speaker.Set([]layer2.Claim{{Address: four, Interfaces: []int{owner.index("eth0")}}, {Address: six, Interfaces: []int{owner.index("eth0")}}})
	l, _ := asker.runLink(Options{})
	q := proof.Question{Interface: asker.index("eth0"), Window: 150 * time.Millisecond}
	for _, a := range []netip.Addr{four, six, nobody, kernel} {
		q.Targets = append(q.Targets, proof.Target{Address: a, Patience: proof.Throughout})
	}
	// heard is who answers for what, as the asker hears it.
	heard := func() string {
		var out []string
		asker.do(func() error {
			answers, err := l.Ask(t.Context(), q)
			for _, h := range answers {
				who := map[string]string{owner.mac("eth0").String(): "owner", other.mac("eth0").String(): "other"}[h.MAC.String()]
				out = append(out, fmt.Sprintf("%v by %s", h.Address, who))
			}
			return err
		})
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	hears := func(what, want string) {
		t.Helper()
		eventually(t, what, func() (bool, string) { got := heard(); return got == want, got })
	}
	hears("the owner alone", "192.0.2.2 by other, 192.0.2.80 by owner, 2001:db8::80 by owner")
	// As IPVS without strictARP does it, and any leftover. IPv6 counts on the interface.
	other.ip("address", "add", "192.0.2.80/32", "dev", "lo")
	other.ip("address", "add", "2001:db8::80/128", "dev", "eth0", "nodad")
	hears("the leftovers", "192.0.2.2 by other, 192.0.2.80 by other, 192.0.2.80 by owner, 2001:db8::80 by other, 2001:db8::80 by owner")
	// strictARP: the kernel keeps it to itself.
	other.set("net/ipv4/conf/all/arp_ignore", "1")
	other.ip("address", "del", "2001:db8::80/128", "dev", "eth0")
	hears("the owner alone again", "192.0.2.2 by other, 192.0.2.80 by owner, 2001:db8::80 by owner")
	speaker.Set([]layer2.Claim{})
	hears("nobody", "192.0.2.2 by other")

	asker.ip("link", "set", "eth0", "down")
	eventually(t, "an interface that is down", func() (bool, string) {
		_, err := l.Ask(t.Context(), q)
		return err != nil && strings.Contains(err.Error(), "eth0"), fmt.Sprint(err)
	})
}
