package link

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A lan is a node that runs a Link, and a peer at the other end of its cable.
type lan struct {
	node, peer host
}

func newLAN(t testing.TB) lan {
	t.Helper()
	n := lan{newHost(t, "node"), newHost(t, "peer")}
	cable(n.node, "eth0", n.peer, "eth0")
	n.node.ip("addr", "add", "192.0.2.1/24", "dev", "eth0")
	n.node.ip("addr", "add", "2001:db8::1/64", "dev", "eth0")
	n.peer.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
	n.peer.ip("addr", "add", "2001:db8::2/64", "dev", "eth0")
	return n
}

// claims says that both service addresses are claimed on the interfaces.
func claims(interfaces ...int) []layer2.Claim {
	slices.Sort(interfaces)
	return []layer2.Claim{{Address: vip4, Interfaces: interfaces}, {Address: vip6, Interfaces: interfaces}}
}

// seen asks arping and ndisc6 in the peer who has both addresses, and returns
// the hardware addresses of all who answered.
func (n lan) seen(ifname string) []string {
	var macs []string
	out, _ := n.peer.try("arping", "-c1", "-w1", "-I", ifname, vip4.String())
	for _, f := range strings.Fields(out) {
		if m, ok := strings.CutPrefix(f, "["); ok {
			macs = append(macs, strings.ToLower(strings.TrimSuffix(m, "]")))
		}
	}
	out, _ = n.peer.try("ndisc6", "-m", "-r1", "-w300", vip6.String(), ifname)
	for line := range strings.Lines(out) {
		if _, m, ok := strings.Cut(line, "link-layer address: "); ok {
			macs = append(macs, strings.ToLower(strings.TrimSpace(m)))
		}
	}
	return macs
}

// expectSeen waits until the tools see exactly this hardware address for both
// addresses; the zero one is nobody.
func (n lan) expectSeen(what, ifname string, want lb.MAC) {
	n.node.t.Helper()
	expected := []string{want.String(), want.String()}
	if want == (lb.MAC{}) {
		expected = nil
	}
	eventually(n.node.t, what, func() (bool, string) {
		got := n.seen(ifname)
		return slices.Equal(got, expected), fmt.Sprintf("%s answers, want %s", got, expected)
	})
}

func TestToolsSeeWhatIsClaimedAndNothingElse(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	index, mac := n.node.index("eth0"), n.node.mac("eth0")
	n.expectSeen("before any claim", "eth0", lb.MAC{})
	l.Set(claims(index))
	n.expectSeen("claimed", "eth0", mac)
	if v := read(t, reg, "addresses", "interface", "eth0", "family", "IPv6"); v != 1 {
		t.Errorf("gauge of addresses: %v, want 1", v)
	}
	l.Set(nil)
	n.expectSeen("withdrawn", "eth0", lb.MAC{})
	l.Set(claims(index + 1000))
	n.expectSeen("claimed on an interface that is not there", "eth0", lb.MAC{})
	l.Set(claims(index + 1000)) // again: changes nothing
	l.Set(claims(index, index+1000))
	n.expectSeen("claimed here too", "eth0", mac)
}

func TestDuplicateAddressDetectionOfOthersFails(t *testing.T) {
	need(t, "arping")
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	eventually(t, "arping -D finds the address in use", func() (bool, string) {
		out, err := n.peer.try("arping", "-D", "-c1", "-w1", "-I", "eth0", vip4.String())
		return err != nil && strings.Contains(out, "Received 1 response"), out
	})
	n.peer.set("net/ipv6/conf/eth0/accept_dad", "1")
	n.peer.ip("addr", "add", vip6.String()+"/64", "dev", "eth0")
	eventually(t, "the peer's kernel gives the address up", func() (bool, string) {
		out := n.peer.ip("-6", "addr", "show", "dev", "eth0")
		return strings.Contains(out, "dadfailed"), out
	})
}

func TestNeighborsThatCheckByUnicastFindUsReachable(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	for _, vip := range []netip.Addr{vip4, vip6} {
		n.peer.ip("neigh", "replace", vip.String(), "lladdr", n.node.mac("eth0").String(), "dev", "eth0", "nud", "probe")
		eventually(t, vip.String()+" is reachable for the peer's kernel", func() (bool, string) {
			out := n.peer.ip("neigh", "show", vip.String(), "dev", "eth0")
			return strings.Contains(out, "REACHABLE"), out
		})
	}
}

// announced waits for one announcement of each form with a hardware address.
func announced(t *testing.T, what string, frames <-chan []byte, mac lb.MAC) {
	t.Helper()
	want := map[string]bool{
		string(gratuitousARP(layer2.GratuitousRequest, mac, vip4)):        true,
		string(gratuitousARP(layer2.GratuitousReply, mac, vip4)):          true,
		string(unsolicitedNA(layer2.UnsolicitedAdvertisement, mac, vip6)): true,
	}
	for timeout := time.After(10 * time.Second); len(want) > 0; {
		select {
		case f := <-frames:
			delete(want, string(f))
		case <-timeout:
			for f := range want {
				t.Errorf("%s: not announced: %s", what, show([]byte(f)))
			}
			return
		}
	}
}

func drain(frames <-chan []byte) {
	for {
		select {
		case <-frames:
		default:
			return
		}
	}
}

func TestNeighborsAreToldOfEveryChange(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	_, frames := n.peer.tap("eth0")
	l, reg := n.node.runLink(Options{})
	index, mac := n.node.index("eth0"), n.node.mac("eth0")
	quiet := func() {
		t.Helper()
		last := 0.0
		eventually(t, "a burst of three rounds", func() (bool, string) {
			sent := read(t, reg, "gratuitous_total")
			done := sent == 9 || sent > last && int(sent)%9 == 0
			return done, fmt.Sprint(sent)
		})
		drain(frames)
	}
	l.Set(claims(index))
	announced(t, "claimed", frames, mac)
	quiet()

	other := lb.MAC{2, 0, 0, 0, 0xaa, 1}
	start := time.Now()
	n.node.ip("link", "set", "eth0", "address", other.String())
	announced(t, "hardware address changed", frames, other)
	t.Logf("new hardware address announced %v after the command began", time.Since(start))
	n.expectSeen("hardware address changed", "eth0", other)

	n.peer.ip("link", "set", "eth0", "down")
	eventually(t, "the node sees its carrier gone", func() (bool, string) {
		i := named(l, "eth0")
		return !i.Carrier, fmt.Sprintf("%+v", i)
	})
	drain(frames)
	n.peer.ip("link", "set", "eth0", "up")
	announced(t, "carrier back", frames, other)
	n.peer.ip("addr", "replace", "2001:db8::2/64", "dev", "eth0")
	n.expectSeen("carrier back", "eth0", other)

	n.node.ip("link", "set", "eth0", "down")
	n.node.ip("link", "set", "eth0", "up")
	announced(t, "down and up at once", frames, other)
	n.expectSeen("down and up", "eth0", other)

	drain(frames)
	l.Announce(vip4)
	l.Announce(vip6)
	announced(t, "asked to, after a conflict", frames, other)

	n.node.ip("link", "set", "eth0", "down")
	n.node.ip("link", "set", "eth0", "name", "lan7")
	n.node.ip("link", "set", "lan7", "up")
	n.expectSeen("renamed", "eth0", other)
	if i := named(l, "lan7"); i.Index != index {
		t.Errorf("after the renaming: %+v", l.Interfaces())
	}
	if old, now := read(t, reg, "addresses", "interface", "eth0"), read(t, reg, "addresses", "interface", "lan7"); old != 0 || now != 2 {
		t.Errorf("addresses on eth0: %v, on lan7: %v; want 0 and 2", old, now)
	}
}

func named(l *Link, name string) lb.Interface {
	for _, i := range l.Interfaces() {
		if i.Name == name {
			return i
		}
	}
	return lb.Interface{}
}

// usable waits until a Link may use an interface.
func usable(t testing.TB, l *Link, name string) {
	t.Helper()
	eventually(t, "the interface is usable", func() (bool, string) {
		i := named(l, name)
		return i.Fault() == lb.InterfaceOK, i.Fault().String()
	})
}

func TestInterfacesThatComeLaterAnswerAndThoseThatGoAreForgotten(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	n.expectSeen("first interface", "eth0", n.node.mac("eth0"))
	for range 3 { // an index is not used twice, a name is
		cable(n.node, "eth1", n.peer, "eth1")
		n.peer.ip("addr", "add", "192.0.2.3/24", "dev", "eth1")
		index := n.node.index("eth1")
		eventually(t, "the new interface is listed as usable", func() (bool, string) {
			i := named(l, "eth1")
			return i.Index == index && i.Fault() == lb.InterfaceOK, fmt.Sprintf("%+v", i)
		})
		l.Set(claims(n.node.index("eth0"), index))
		n.expectSeen("second interface", "eth1", n.node.mac("eth1"))
		eventually(t, "the group is joined on the second interface", func() (bool, string) {
			out := n.node.ip("-6", "maddr", "show", "dev", "eth1")
			return strings.Contains(out, layer2.GroupOf(vip6).Address().String()+"\n"), out
		})
		n.node.ip("link", "del", "eth1")
		eventually(t, "the interface is forgotten", func() (bool, string) {
			return named(l, "eth1").Index == 0 && read(t, reg, "addresses", "interface", "eth1") == 0, fmt.Sprintf("%+v", l.Interfaces())
		})
		n.expectSeen("first interface again", "eth0", n.node.mac("eth0"))
	}
}

func TestEveryChangeOfAnInterfaceIsSeenAsItHappens(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	n.node.ip("link", "add", "br0", "type", "bridge")
	address := netip.MustParsePrefix("198.51.100.7/24")
	address6 := netip.MustParsePrefix("2001:db8:7::7/64")
	for _, c := range []struct {
		name string
		do   func()
		seen func() bool
	}{
		{"IPv4 address added", func() { n.node.ip("addr", "add", address.String(), "dev", "eth0") }, func() bool { return slices.Contains(named(l, "eth0").Addresses, address) }},
		{"IPv6 address added", func() { n.node.ip("addr", "add", address6.String(), "dev", "eth0") }, func() bool { return slices.Contains(named(l, "eth0").Addresses, address6) }},
		{"IPv6 address deprecated", func() { n.node.ip("addr", "change", address6.String(), "dev", "eth0", "preferred_lft", "0") }, func() bool { return named(l, "eth0").Flags[address6]&^lb.AddressTentative == lb.AddressDeprecated }},
		{"IPv6 address preferred", func() {
			n.node.ip("addr", "change", address6.String(), "dev", "eth0", "preferred_lft", "100", "valid_lft", "200")
		}, func() bool { return named(l, "eth0").Flags[address6]&^lb.AddressTentative == lb.AddressDynamic }},
		{"address removed", func() { n.node.ip("addr", "del", address.String(), "dev", "eth0") }, func() bool { return !slices.Contains(named(l, "eth0").Addresses, address) }},
		{"no ARP", func() { n.node.ip("link", "set", "eth0", "arp", "off") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceNoARP }},
		{"ARP", func() { n.node.ip("link", "set", "eth0", "arp", "on") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceOK }},
		{"cable out", func() { n.peer.ip("link", "set", "eth0", "down") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceNoCarrier }},
		{"cable in", func() { n.peer.ip("link", "set", "eth0", "up") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceOK }},
		{"enslaved", func() { n.node.ip("link", "set", "eth0", "master", "br0") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceEnslaved }},
		{"free", func() { n.node.ip("link", "set", "eth0", "nomaster") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceOK }},
		{"down", func() { n.node.ip("link", "set", "eth0", "down") }, func() bool { return named(l, "eth0").Fault() == lb.InterfaceDown }},
		{"renamed", func() { n.node.ip("link", "set", "eth0", "name", "lan0") }, func() bool { return named(l, "lan0").Index != 0 && named(l, "eth0").Index == 0 }},
		{"removed", func() { n.node.ip("link", "del", "lan0") }, func() bool { return named(l, "lan0").Index == 0 }},
		{"added", func() { cable(n.node, "eth2", n.peer, "eth2") }, func() bool { return named(l, "eth2").Index != 0 }},
	} {
		c.do()
		start := time.Now()
		for !c.seen() {
			select {
			case <-l.Changed():
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: not seen in 5 s: %+v", c.name, l.Interfaces())
			}
		}
		// The kernel itself holds back a change of carrier that follows another
		// within a second, and a test machine may be starved, so what fails is
		// only what no machine excuses. The figure is in the log.
		took := time.Since(start)
		if t.Logf("%s: %v", c.name, took); took > 3*time.Second {
			t.Errorf("%s: seen after %v", c.name, took)
		}
	}
}

func TestTheKernelsOwnAddressesAreLeftToIt(t *testing.T) {
	need(t, "arping", "ndisc6")
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	index := n.node.index("eth0")
	n.node.ip("addr", "add", vip4.String()+"/32", "dev", "eth0")
	n.node.ip("addr", "add", vip6.String()+"/128", "dev", "eth0")
	eventually(t, "the kernel's addresses are listed", func() (bool, string) {
		return len(named(l, "eth0").Addresses) == 5, fmt.Sprintf("%+v", named(l, "eth0"))
	})
	l.Set(append(claims(index), layer2.Claim{Address: other4, Interfaces: []int{index}}, layer2.Claim{Address: other6, Interfaces: []int{index}}))
	n.expectSeen("held by the kernel", "eth0", n.node.mac("eth0")) // exactly one answer each
	if got := read(t, reg, "replies_total"); got != 0 {
		t.Errorf("%v replies although the kernel answers", got)
	}
	n.node.ip("addr", "del", vip4.String()+"/32", "dev", "eth0")
	n.node.ip("addr", "del", vip6.String()+"/128", "dev", "eth0")
	n.expectSeen("given up by the kernel", "eth0", n.node.mac("eth0"))
	if got := read(t, reg, "replies_total"); got < 2 {
		t.Errorf("%v replies although the kernel no longer answers", got)
	}
}

func TestFramesOfForeignVLANsAreNotAnswered(t *testing.T) {
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	us, them := n.node.mac("eth0"), n.peer.mac("eth0")
	tap, frames := n.peer.tap("eth0")
	tagged := func(vlan byte, frame []byte) []byte {
		return slices.Concat(frame[:12], []byte{0x81, 0x00, 0, vlan}, frame[12:])
	}
	question := func(sender string) []byte { return requestARP(broadcast, them, netip.MustParseAddr(sender), vip4) }
	eventually(t, "a socket is open", func() (bool, string) {
		v := read(t, reg, "addresses")
		return v == 2, fmt.Sprint(v)
	})
	for _, f := range [][]byte{
		tagged(100, question("192.0.2.101")),
		tagged(0, question("192.0.2.102")), // priority only: no VLAN
		question("192.0.2.103"),
	} {
		if err := tap.send(f); err != nil {
			t.Fatal(err)
		}
	}
	var answered []string
	for len(answered) < 2 {
		select {
		case f := <-frames:
			if a, m := parseARP(f); m == wellFormed && !a.request && a.senderMAC == us && a.sender == vip4 && a.target != vip4 {
				answered = append(answered, a.target.String())
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("answered: %v", answered)
		}
	}
	if want := []string{"192.0.2.102", "192.0.2.103"}; !slices.Equal(answered, want) {
		t.Errorf("answered %v, want %v", answered, want)
	}
}

func TestOthersUseOfWatchedAddressesIsHeard(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	index := n.node.index("eth0")
	l.Watch([]lb.AddressRange{{First: other4, Last: other4.Next()}, {First: other6, Last: other6.Next()}})
	l.Set(claims(index)) // watched for that reason alone
	tap, _ := n.peer.tap("eth0")
	them := n.peer.mac("eth0")
	unwatched4, unwatched6 := netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99")
	for _, c := range []struct {
		frame   []byte
		address netip.Addr // invalid: not heard
		kind    layer2.HeardKind
	}{
		{gratuitousARP(layer2.GratuitousRequest, them, other4), other4, layer2.HeardAnnouncement},
		{gratuitousARP(layer2.GratuitousReply, them, vip4), vip4, layer2.HeardAnnouncement},
		{requestARP(broadcast, them, other4, peer4), other4, layer2.HeardRequest},
		{requestARP(broadcast, them, netip.Addr{}, vip4), vip4, layer2.HeardProbe},
		{gratuitousARP(layer2.GratuitousRequest, them, unwatched4), netip.Addr{}, 0},
		{gratuitousARP(layer2.GratuitousRequest, n.node.mac("eth0"), other4), netip.Addr{}, 0}, // our own, come back
		{unsolicitedNA(layer2.UnsolicitedAdvertisement, them, other6), other6, layer2.HeardAnnouncement},
		{unsolicitedNA(layer2.UnsolicitedAdvertisement, them, vip6), vip6, layer2.HeardAnnouncement},
		{advertisement(n.node.mac("eth0"), them, other6, netip.MustParseAddr("2001:db8::1"), true), other6, layer2.HeardReply},
		{solicitation(lb.MAC{}, them, other6, vip6), other6, layer2.HeardRequest},
		{solicitation(lb.MAC{}, them, netip.IPv6Unspecified(), vip6), vip6, layer2.HeardProbe},
		{unsolicitedNA(layer2.UnsolicitedAdvertisement, them, unwatched6), netip.Addr{}, 0},
		{gratuitousARP(layer2.GratuitousReply, them, other4.Next()), other4.Next(), layer2.HeardAnnouncement},
	} {
		heard := func() *layer2.Heard {
			for {
				if err := tap.send(c.frame); err != nil {
					t.Fatal(err)
				}
				wait := 50 * time.Millisecond
				select {
				case h := <-l.Heard():
					if c.address.IsValid() && h.Address != c.address { // of a repetition before
						continue
					}
					return &h
				case <-time.After(wait):
					if !c.address.IsValid() {
						return nil
					}
				}
			}
		}()
		if heard == nil && !c.address.IsValid() {
			continue
		}
		if heard == nil || heard.Address != c.address || heard.Kind != c.kind || heard.MAC != them || heard.Interface != index || heard.At.IsZero() {
			t.Errorf("%s: heard %+v", show(c.frame), heard)
		}
	}
}

func TestProbeTellsANodeThatIsThereFromOneThatIsNot(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	index, them := n.node.index("eth0"), n.peer.mac("eth0")
	usable(t, l, "eth0")
	for _, c := range []struct {
		name, target string
		mac          lb.MAC
		want         bool
	}{
		{"there", "192.0.2.2", them, true},
		{"there, IPv6", "2001:db8::2", them, true},
		{"there, hardware address not known", "192.0.2.2", lb.MAC{}, true},
		{"there, hardware address not known, IPv6", "2001:db8::2", lb.MAC{}, true},
		{"another address", "192.0.2.77", them, false},
		{"another address, IPv6", "2001:db8::77", them, false},
		{"another card", "192.0.2.2", lb.MAC{2, 0, 0, 0, 0, 7}, false},
		{"another card, IPv6", "2001:db8::2", lb.MAC{2, 0, 0, 0, 0, 7}, false},
	} {
		n.node.do(func() error {
			start := time.Now()
			window := l.window(index, start).Whole()
			got, err := l.Probe(t.Context(), index, netip.MustParseAddr(c.target), c.mac)
			took := time.Since(start)
			if t.Logf("%s: %v after %v", c.name, got, took); err != nil || got != c.want {
				t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
			}
			if !got && took < window {
				t.Errorf("%s: given up after %v of %v", c.name, took, window)
			}
			return nil
		})
	}
	n.node.do(func() error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got, err := l.Probe(ctx, index, netip.MustParseAddr("192.0.2.77"), them); got || err == nil {
			t.Errorf("with an ended context: %v, %v", got, err)
		}
		if got, err := l.Probe(t.Context(), 999, netip.MustParseAddr("192.0.2.2"), them); got || err == nil {
			t.Errorf("on an interface that is not there: %v, %v", got, err)
		}
		return nil
	})
	n.peer.ip("link", "set", "eth0", "down")
	eventually(t, "carrier lost", func() (bool, string) { return !named(l, "eth0").Carrier, "" })
	if got, err := l.Probe(t.Context(), index, netip.MustParseAddr("192.0.2.2"), them); got || err == nil {
		t.Errorf("without carrier: %v, %v", got, err)
	}
}

// A segment is asked for long until it is known that its answers come at once.
func TestSoundingShortensTheWindow(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	index := n.node.index("eth0")
	usable(t, l, "eth0")
	before := l.window(index, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	sounded := make(chan struct{})
	go func() {
		defer close(sounded)
		n.node.do(func() error { l.Sound(ctx, index, netip.MustParseAddr("2001:db8::2"), n.peer.mac("eth0")); return nil })
	}()
	eventually(t, "an answer counts", func() (bool, string) {
		w := l.window(index, time.Now())
		return w.Whole() < before.Whole(), w.Whole().String()
	})
	cancel()
	<-sounded
	if w := l.window(index+1, time.Now()); w != before {
		t.Errorf("the window of another interface is %v, and was %v", w, before)
	}
}

// A macvlan has a MAC address of its own on the interface below it: what is asked of that
// is not asked of us, whatever it is asked for.
func TestFramesOfDevicesOnTopAreNotAnswered(t *testing.T) {
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	l.Set(claims(n.node.index("eth0")))
	n.node.ip("link", "add", "link", "eth0", "name", "mv0", "type", "macvlan", "mode", "bridge")
	n.node.ip("link", "set", "mv0", "up")
	us, top, them := n.node.mac("eth0"), n.node.mac("mv0"), n.peer.mac("eth0")
	tap, frames := n.peer.tap("eth0")
	arp := func(to lb.MAC, sender string) []byte { return requestARP(to, them, netip.MustParseAddr(sender), vip4) }
	ndp := func(to lb.MAC, source string) []byte {
		return solicitation(to, them, netip.MustParseAddr(source), vip6)
	}
	eventually(t, "a socket is open", func() (bool, string) {
		v := read(t, reg, "addresses")
		return v == 2, fmt.Sprint(v)
	})
	for _, f := range [][]byte{
		arp(top, "192.0.2.101"), ndp(top, "2001:db8::101"),
		arp(us, "192.0.2.102"), ndp(us, "2001:db8::102"),
		arp(broadcast, "192.0.2.103"),
	} {
		if err := tap.send(f); err != nil {
			t.Fatal(err)
		}
	}
	answered := map[string]bool{}
	for len(answered) < 3 {
		select {
		case f := <-frames:
			if a, m := parseARP(f); m == wellFormed && !a.request && a.sender == vip4 && a.target != vip4 {
				answered[a.target.String()] = true
			}
			if a, m := parseNDP(f); m == wellFormed && !a.solicitation && a.target == vip6 && a.solicited {
				answered[a.destination.String()] = true
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("answered: %v", answered)
		}
	}
	if want := map[string]bool{"192.0.2.102": true, "192.0.2.103": true, "2001:db8::102": true}; !maps.Equal(answered, want) {
		t.Errorf("answered %v, want %v", answered, want)
	}
}

// A sounding may be ended at any moment: while its socket is opened, while it asks, and
// while the interface breaks under it.
func TestASoundingEndsWhateverItIsDoing(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	index := n.node.index("eth0")
	usable(t, l, "eth0")
	for k := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k)*5*time.Microsecond)
		n.node.do(func() error { l.Sound(ctx, index, netip.MustParseAddr("2001:db8::2"), n.peer.mac("eth0")); return nil })
		cancel()
	}
}

// The manifests give the speaker NET_RAW and nothing else. This runs the test
// of answering once more as nobody with that capability alone.
func TestNetRawIsEnough(t *testing.T) {
	need(t, "setpriv", "arping", "ndisc6")
	if os.Getenv("BELFRY_LINK_CHILD") != "" {
		return
	}
	n := newLAN(t)
	dir, err := os.MkdirTemp("", "belfry-link") // t.TempDir is not nobody's to read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "link.test")
	if out, err := exec.Command("install", "-m", "755", self, program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var log bytes.Buffer
	cmd := exec.Command("ip", "netns", "exec", n.node.name, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw", "--bounding-set", "-all,+net_raw", "--no-new-privs",
		program, "-test.run", "^TestChildAnswers$", "-test.v")
	cmd.Env = append(os.Environ(), "BELFRY_LINK_CHILD=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.expectSeen("a process with CAP_NET_RAW alone", "eth0", n.node.mac("eth0"))
	stdin.Close()
	if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), "--- PASS: TestChildAnswers") {
		t.Errorf("%v: %s", err, log.String())
	}
}

// TestChildAnswers is the other half of TestNetRawIsEnough: it answers until
// its standard input ends.
func TestChildAnswers(t *testing.T) {
	if os.Getenv("BELFRY_LINK_CHILD") != "1" {
		t.Skip("runs as a child of TestNetRawIsEnough")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	const netRawAlone = "CapEff:\t0000000000002000" // 1 << CAP_NET_RAW
	if !strings.Contains(string(status), netRawAlone) {
		t.Fatalf("has other capabilities:\n%s", status)
	}
	answersUntilTold(t, Options{})
}

// answersUntilTold answers until standard input ends.
func answersUntilTold(t *testing.T, o Options) {
	l, err := New(testLog(t), nil, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	eventually(t, "the interface is listed", func() (bool, string) { return named(l, "eth0").Index != 0, "" })
	l.Set(claims(named(l, "eth0").Index))
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		t.Error("standard input has something to say")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDetectFindsWhoUsesAnAddressAlready(t *testing.T) {
	n := newLAN(t)
	l, reg := n.node.runLink(Options{})
	index, them := n.node.index("eth0"), n.peer.mac("eth0")
	n.peer.ip("addr", "add", vip4.String()+"/32", "dev", "eth0")
	n.peer.ip("addr", "add", vip6.String()+"/128", "dev", "eth0")
	usable(t, l, "eth0")
	n.node.do(func() error {
		start := time.Now()
		found, err := l.Detect(t.Context(), index, []netip.Addr{vip4, other4, vip6, other6}, nobody)
		t.Logf("took %v: %+v", time.Since(start), found)
		by := map[netip.Addr]lb.MAC{}
		for _, h := range found {
			by[h.Address] = h.MAC
		}
		if err != nil || len(found) != 2 || by[vip4] != them || by[vip6] != them {
			t.Errorf("found %+v, %v; want the peer's %v and %v", found, err, vip4, vip6)
		}
		free, err := l.Detect(t.Context(), index, []netip.Addr{other6}, nobody)
		if err != nil || len(free) != 0 {
			t.Errorf("found %+v, %v for a free address", free, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Detect(ctx, index, []netip.Addr{other4}, nobody); err == nil {
			t.Error("no error although the context has ended")
		}
		return nil
	})
	if got := read(t, reg, "replies_total"); got != 0 {
		t.Errorf("%v answers to our own questions", got)
	}
}

// Of two that want one address at the same moment, at most one finds it free:
// the other has heard it ask.
func TestOfTwoThatDetectAtOnceAtMostOneFindsTheAddressFree(t *testing.T) {
	n := newLAN(t)
	addresses := []netip.Addr{vip4, vip6}
	type result struct {
		found []layer2.Heard
		err   error
	}
	results := make(chan result, 2)
	var ready []func()
	for _, h := range []host{n.node, n.peer} {
		l, _ := h.runLink(Options{})
		usable(t, l, "eth0")
		index := h.index("eth0")
		ready = append(ready, func() {
			var r result
			if r.err = h.enter(); r.err == nil {
				r.found, r.err = l.Detect(t.Context(), index, addresses, nobody)
			}
			results <- r
		})
	}
	for _, f := range ready {
		go f()
	}
	inUse := map[netip.Addr]int{}
	for range ready {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		for _, h := range r.found {
			if inUse[h.Address]++; h.Kind != layer2.HeardProbe {
				t.Errorf("heard %+v, want a probe", h)
			}
		}
	}
	for _, a := range addresses {
		if inUse[a] == 0 {
			t.Errorf("both found %v free", a)
		}
	}
}

func nobody(lb.MAC) bool { return false }

// Of two interfaces in one subnet it is known to which one the kernel's route leads, and
// when that changes. Other routes are no news.
func TestOfInterfacesInOneSubnetTheOneWithTheRouteIsKnown(t *testing.T) {
	n := newLAN(t)
	cable(n.node, "wlan0", n.peer, "wlan0")
	n.node.ip("addr", "add", "192.0.2.7/24", "dev", "wlan0")
	n.node.ip("addr", "add", "2001:db8::7/64", "dev", "wlan0")
	l, reg := n.node.runLink(Options{})
	subnet4, subnet6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")
	elsewhere := func(what string, eth0, wlan0 []netip.Prefix) {
		t.Helper()
		eventually(t, what, func() (bool, string) {
			e, w := named(l, "eth0").Elsewhere, named(l, "wlan0").Elsewhere
			return slices.Equal(e, eth0) && slices.Equal(w, wlan0), fmt.Sprintf("eth0 %v, wlan0 %v", e, w)
		})
	}
	elsewhere("the first one has the routes", nil, []netip.Prefix{subnet4, subnet6})
	n.node.ip("route", "del", subnet4.String(), "dev", "eth0")
	elsewhere("the second one has the route", []netip.Prefix{subnet4}, []netip.Prefix{subnet6})
	n.node.ip("-6", "route", "add", subnet6.String(), "dev", "wlan0", "metric", "1")
	elsewhere("a better metric", []netip.Prefix{subnet4, subnet6}, nil)

	before := read(t, reg, "interface_listings_total")
	var routes strings.Builder
	for i := range 250 {
		fmt.Fprintf(&routes, "route add 10.1.%d.0/24 dev wlan0\n", i)
		if i%10 == 9 { // not all within one pause
			n.node.batch(routes.String())
			routes.Reset()
		}
	}
	n.node.ip("-6", "route", "del", subnet6.String(), "dev", "wlan0", "metric", "1")
	elsewhere("the better metric is gone", []netip.Prefix{subnet4}, []netip.Prefix{subnet6})
	if got := read(t, reg, "interface_listings_total") - before; got > 3 {
		t.Errorf("%v listings for 250 routes that lead elsewhere", got)
	}

	n.node.ip("route", "prepend", subnet4.String(), "dev", "eth0")
	n.node.ip("link", "set", "wlan0", "down")
	elsewhere("only one can be used", nil, nil)
	n.node.ip("link", "set", "wlan0", "up")
	elsewhere("the route leads to the one that was never down", nil, []netip.Prefix{subnet4})
}
