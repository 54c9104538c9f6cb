package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

var (
	vip4, vip6     = netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	other4, other6 = netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")
	// elsewhere is claimed, but on another interface.
	elsewhere4, elsewhere6 = netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("2001:db8::12")
	// held is claimed, but the kernel has it on this very interface.
	held4, held6 = netip.MustParseAddr("192.0.2.13"), netip.MustParseAddr("2001:db8::13")
	peer4, peer6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::2")
)

// A line is one frame and what must come back.
type line struct {
	name      string
	frame     []byte
	reply     []byte // nil: silence
	malformed malformation
	unheard   bool // refused by the socket filter, before the codec sees it
}

// conversation is what a neighbor may say to the station with hardware address
// us, and what that has to answer.
func conversation(us, them lb.MAC) []line {
	ask4 := func(to, senderMAC lb.MAC, sender, target netip.Addr) []byte {
		return marshalARP(arp.OperationRequest, to, senderMAC, sender, lb.MAC{}, target)
	}
	reply4 := func(target netip.Addr) []byte {
		return marshalARP(arp.OperationReply, them, us, vip4, them, target)
	}
	ask6 := func(to lb.MAC, source, target netip.Addr) []byte { return solicitation(to, them, source, target) }
	reply6 := advertisement(them, us, vip6, peer6, true)
	edit := func(frame []byte, offset int, with ...byte) []byte {
		frame = bytes.Clone(frame)
		copy(frame[offset:], with)
		return frame
	}
	// resum mends the checksum after an edit of an IPv6 frame.
	resum := func(frame []byte) []byte {
		frame = bytes.Clone(frame)
		body := frame[etherLen+ipv6Len:]
		binary.BigEndian.PutUint16(body[2:], 0)
		binary.BigEndian.PutUint16(body[2:], checksum(frame[etherLen+8:etherLen+ipv6Len], body))
		return frame
	}
	// options puts other options behind a solicitation.
	options := func(source netip.Addr, b ...byte) []byte {
		frame := bytes.Clone(ask6(lb.MAC{}, source, vip6)[:etherLen+ipv6Len+neighborLen])
		frame = append(frame, b...)
		binary.BigEndian.PutUint16(frame[etherLen+4:], uint16(neighborLen+len(b)))
		return resum(frame)
	}
	const icmp = etherLen + ipv6Len
	unspecified6 := netip.IPv6Unspecified()
	group := multicastMAC(layer2.GroupOf(vip6).Address())
	good4, good6 := ask4(broadcast, them, peer4, vip4), ask6(lb.MAC{}, peer6, vip6)
	return []line{
		{name: "ARP: broadcast", frame: good4, reply: reply4(peer4)},
		{name: "ARP: unicast, as a neighbor that refreshes its cache", frame: ask4(us, them, peer4, vip4), reply: reply4(peer4)},
		{name: "ARP: probe (RFC 5227)", frame: ask4(broadcast, them, netip.IPv4Unspecified(), vip4), reply: reply4(netip.IPv4Unspecified())},
		{name: "ARP: hardware type of IEEE 802", frame: edit(good4, etherLen, 0, 6), reply: reply4(peer4)},
		{name: "ARP: padded to the shortest frame", frame: append(bytes.Clone(good4), make([]byte, 18)...), reply: reply4(peer4)},
		{name: "ARP: not ours", frame: ask4(broadcast, them, peer4, other4)},
		{name: "ARP: ours on another interface", frame: ask4(broadcast, them, peer4, elsewhere4)},
		{name: "ARP: the kernel's", frame: ask4(broadcast, them, netip.MustParseAddr("192.0.2.99"), held4)},
		{name: "ARP: announcement of a stranger", frame: ask4(broadcast, them, vip4, vip4)},
		{name: "ARP: reply", frame: marshalARP(arp.OperationReply, us, them, peer4, us, vip4)},
		{name: "ARP: reverse ARP", frame: edit(good4, etherLen+6, 0, 3), malformed: badOperation},
		{name: "ARP: not Ethernet", frame: edit(good4, etherLen, 0, 32), malformed: badHardwareType},
		{name: "ARP: not IPv4", frame: edit(good4, etherLen+2, 0x86, 0xdd), malformed: badHardwareType},
		{name: "ARP: lengths lie", frame: edit(good4, etherLen+4, 255, 255), malformed: truncated},
		{name: "ARP: no lengths", frame: edit(good4, etherLen+4, 0, 0), malformed: truncated},
		{name: "ARP: short", frame: good4[:etherLen+20], malformed: truncated, unheard: true},
		{name: "ARP: sender is a group", frame: ask4(broadcast, lb.MAC{1, 0, 0x5e, 0, 0, 1}, peer4, vip4), malformed: badSource},
		{name: "ARP: sender is nobody", frame: edit(good4, etherLen+8, 0, 0, 0, 0, 0, 0), malformed: badSender},
		{name: "ARP: sender is everybody", frame: ask4(broadcast, them, allOnes, vip4), malformed: badSender},
		{name: "ARP: sender is a group of addresses", frame: ask4(broadcast, them, netip.MustParseAddr("224.0.0.1"), vip4), malformed: badSender},

		{name: "NDP: to the group", frame: good6, reply: reply6},
		{name: "NDP: unicast, as a neighbor that checks whether we are there", frame: ask6(us, peer6, vip6), reply: reply6},
		{name: "NDP: duplicate address detection", frame: ask6(lb.MAC{}, unspecified6, vip6), reply: advertisement(allNodesMAC, us, vip6, allNodes, false)},
		{name: "NDP: without options", frame: options(peer6), reply: reply6},
		{name: "NDP: with a nonce (RFC 3971)", frame: options(peer6, 14, 1, 1, 2, 3, 4, 5, 6), reply: reply6},
		{name: "NDP: with options that have no meaning here", frame: options(peer6, 5, 1, 0, 0, 0, 0, 0, 9, 200, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), reply: reply6},
		{
			name: "NDP: link-layer address of another card", frame: options(peer6, 1, 1, 2, 0, 0, 0, 0xab, 0xcd),
			reply: advertisement(lb.MAC{2, 0, 0, 0, 0xab, 0xcd}, us, vip6, peer6, true),
		},
		{name: "NDP: not ours", frame: ask6(lb.MAC{}, peer6, other6)},
		{name: "NDP: ours on another interface", frame: ask6(lb.MAC{}, peer6, elsewhere6)},
		{name: "NDP: the kernel's", frame: ask6(lb.MAC{}, netip.MustParseAddr("2001:db8::99"), held6)},
		{name: "NDP: advertisement of a stranger", frame: unsolicitedNA(layer2.UnsolicitedAdvertisement, them, vip6)},
		{name: "NDP: passed on by a router", frame: edit(good6, etherLen+7, 254), malformed: badHopLimit, unheard: true},
		{name: "NDP: wrong checksum", frame: edit(good6, icmp+2, good6[icmp+2]^0xff), malformed: badChecksum},
		{name: "NDP: code", frame: resum(edit(good6, icmp+1, 1)), malformed: badCode},
		{name: "NDP: router solicitation", frame: resum(edit(good6, icmp, 133)), malformed: badOperation, unheard: true},
		{name: "NDP: target is a group", frame: resum(edit(good6, icmp+8, 0xff, 2)), malformed: badTarget, unheard: true},
		{name: "NDP: option without length", frame: options(peer6, 1, 0, 0, 0, 0, 0, 0, 0), malformed: badOption},
		{name: "NDP: option longer than the message", frame: options(peer6, 1, 2, 0, 0, 0, 0, 0, 0), malformed: badOption},
		{name: "NDP: half an option", frame: options(peer6, 1), malformed: badOption},
		{name: "NDP: link-layer address is a group", frame: options(peer6, 1, 1, 1, 0, 0x5e, 0, 0, 1), malformed: badOption},
		{name: "NDP: detection with a link-layer address", frame: options(unspecified6, 1, 1, 2, 0, 0, 0, 0, 2), malformed: badDetection},
		{name: "NDP: detection not to the group", frame: ask6(us, unspecified6, vip6), malformed: badDetection},
		{name: "NDP: source is a group", frame: ask6(group, netip.MustParseAddr("ff02::2"), vip6), malformed: badSender},
		{name: "NDP: length beyond the frame", frame: edit(good6, etherLen+4, 0xff, 0xff), malformed: truncated},
		{name: "NDP: short", frame: good6[:icmp+20], malformed: truncated, unheard: true},
		{
			name:  "NDP: advertisement to everybody that claims to be an answer",
			frame: marshalNDP(allNodesMAC, them, vip6, allNodes, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: vip6}), malformed: badSender,
		},
	}
}

func claimed(index, elsewhere int) []layer2.Claim {
	here, there := []int{index}, []int{elsewhere}
	return []layer2.Claim{{Address: vip4, Interfaces: here}, {Address: vip6, Interfaces: here}, {Address: held4, Interfaces: here}, {Address: held6, Interfaces: here}, {Address: elsewhere4, Interfaces: there}, {Address: elsewhere6, Interfaces: there}}
}

func TestConversationSimulated(t *testing.T) {
	us, them := lb.MAC{2, 0, 0, 0, 0, 1}, lb.MAC{2, 0, 0, 0, 0, 2}
	table := layer2.NewTable(claimed(7, 8))
	station := layer2.NewStation([]lb.Interface{{
		Index: 7, MAC: us, Up: true, Carrier: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(held4, 24), netip.PrefixFrom(held6, 64)},
	}})
	for _, l := range conversation(us, them) {
		receive := receiveARP
		if binary.BigEndian.Uint16(l.frame[12:]) == etherIPv6 {
			receive = receiveNDP
		}
		o := receive(table, station, 7, l.frame)
		if !bytes.Equal(o.reply, l.reply) || o.malformed != l.malformed {
			t.Errorf("%s: %s (malformed: %v); want %s (malformed: %v)", l.name, show(o.reply), o.malformed, show(l.reply), l.malformed)
		}
	}
}

// The same conversation with a real Link on a real cable.
func TestConversationOnACable(t *testing.T) {
	node, peer := newHost(t, "node"), newHost(t, "peer")
	cable(node, "eth0", peer, "eth0")
	node.ip("addr", "add", held4.String()+"/24", "dev", "eth0")
	node.ip("addr", "add", held6.String()+"/64", "dev", "eth0")
	l, reg := node.runLink(Options{})
	index := node.index("eth0")
	l.Set(claimed(index, 99))
	us, them := node.mac("eth0"), peer.mac("eth0")
	// An answer to a detection and an announcement are the same bytes, so let
	// the announcements pass first.
	eventually(t, "all announcements of two addresses", func() (bool, string) {
		n := read(t, reg, "gratuitous_total")
		return n == 9, fmt.Sprint(n)
	})
	tap, frames := peer.tap("eth0")

	// A sentinel is a question that is answered like no other in the
	// conversation: whatever came before it has been dealt with when its answer
	// is here.
	sentinel4 := netip.MustParseAddr("192.0.2.222")
	sentinel6 := netip.MustParseAddr("fe80::222")
	for _, l := range conversation(us, them) {
		question := requestARP(broadcast, them, sentinel4, vip4)
		end := marshalARP(arp.OperationReply, them, us, vip4, them, sentinel4)
		if binary.BigEndian.Uint16(l.frame[12:]) == etherIPv6 {
			question = solicitation(lb.MAC{}, them, sentinel6, vip6)
			end = advertisement(them, us, vip6, sentinel6, true)
		}
		before := 0.0
		if l.malformed != wellFormed && !l.unheard {
			before = read(t, reg, "malformed_total", "reason", l.malformed.String())
		}
		if err := tap.send(l.frame); err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		var got [][]byte
		for asked := false; ; {
			var frame []byte
			if !asked {
				if err := tap.send(question); err != nil {
					t.Fatal(err)
				}
				asked = true
			}
			select {
			case frame = <-frames:
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: the sentinel is not answered", l.name)
			}
			if bytes.Equal(frame, end) {
				break
			}
			if spoken(frame) {
				got = append(got, frame)
			}
		}
		switch {
		case l.reply == nil && len(got) > 0:
			t.Errorf("%s: answered by %s", l.name, show(got[0]))
		case l.reply != nil && (len(got) != 1 || !bytes.Equal(got[0], l.reply)):
			t.Errorf("%s: %d answers, %s; want %s", l.name, len(got), show(append(got, nil)[0]), show(l.reply))
		}
		if l.malformed != wellFormed && !l.unheard {
			if after := read(t, reg, "malformed_total", "reason", l.malformed.String()); after != before+1 {
				t.Errorf("%s: counted %v times as %v", l.name, after-before, l.malformed)
			}
		}
	}
	if n := read(t, reg, "requests_total", "verdict", "kernel-holds"); n != 2 {
		t.Errorf("%v questions were left to the kernel, want 2", n)
	}
}

// spoken reports whether a frame says something about the service addresses;
// the rest is the kernel's own business.
func spoken(frame []byte) bool {
	if a, m := parseARP(frame); m == wellFormed {
		return a.sender == vip4 || a.sender == elsewhere4 || a.sender == other4
	}
	n, m := parseNDP(frame)
	return m == wellFormed && !n.solicitation && (n.target == vip6 || n.target == elsewhere6 || n.target == other6)
}

func show(frame []byte) string {
	if frame == nil {
		return "silence"
	}
	if a, m := parseARP(frame); m == wellFormed {
		return fmt.Sprintf("ARP %+v", a)
	}
	if n, m := parseNDP(frame); m == wellFormed {
		return fmt.Sprintf("NDP %+v", n)
	}
	return fmt.Sprintf("%x", frame)
}
