package link

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

const (
	ipv6Len          = 40
	protocolICMPv6   = 58
	neighborHops     = 255 // RFC 4861 section 7.1: nothing that a router passed on
	typeSolicitation = 135
	typeAdvertising  = 136
	neighborLen      = 24 // ICMPv6 header, flags, target
	optionSourceMAC  = 1
	optionTargetMAC  = 2
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = multicastMAC(allNodes)
)

// multicastMAC returns the Ethernet group of an IPv6 group (RFC 2464 section 7).
func multicastMAC(group netip.Addr) lb.MAC {
	b := group.As16()
	return lb.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// An ndpMessage is a Neighbor Solicitation or Advertisement that has passed the
// checks of RFC 4861 sections 7.1.1 and 7.1.2.
type ndpMessage struct {
	solicitation        bool
	solicited           bool // flag of an advertisement
	source, destination netip.Addr
	target              netip.Addr
	// mac is where to reach the sender (of an advertisement: the target): the
	// link-layer option's, else the frame's source.
	mac lb.MAC
	// from is the frame's source.
	from lb.MAC
}

// parseNDP reads a frame.
func parseNDP(frame []byte) (ndpMessage, malformation) {
	from, packet, m := deframe(frame, etherIPv6)
	if m != wellFormed {
		return ndpMessage{}, m
	}
	if len(packet) < ipv6Len+neighborLen || packet[0]>>4 != 6 {
		return ndpMessage{}, truncated
	}
	length := int(binary.BigEndian.Uint16(packet[4:]))
	if length < neighborLen || length > len(packet)-ipv6Len {
		return ndpMessage{}, truncated
	}
	body := packet[ipv6Len : ipv6Len+length]
	n := ndpMessage{
		source:      netip.AddrFrom16([16]byte(packet[8:24])),
		destination: netip.AddrFrom16([16]byte(packet[24:40])),
		mac:         from, from: from,
	}
	switch {
	case packet[6] != protocolICMPv6 || body[0] != typeSolicitation && body[0] != typeAdvertising:
		return ndpMessage{}, badOperation
	case packet[7] != neighborHops:
		return ndpMessage{}, badHopLimit
	case n.source.IsMulticast() || n.source.IsLoopback():
		return ndpMessage{}, badSender
	case checksum(packet[8:40], body) != 0:
		return ndpMessage{}, badChecksum
	case body[1] != 0:
		return ndpMessage{}, badCode
	}
	// The codec reads the fixed part. It would refuse a message for an option
	// that has no meaning here, which is to be ignored instead.
	message, err := ndp.ParseMessage(body[:neighborLen])
	if err != nil {
		return ndpMessage{}, badTarget
	}
	link := byte(optionTargetMAC)
	switch message := message.(type) {
	case *ndp.NeighborSolicitation:
		n.solicitation, n.target, link = true, message.TargetAddress, optionSourceMAC
	case *ndp.NeighborAdvertisement:
		n.solicited, n.target = message.Solicited, message.TargetAddress
	}
	if n.target.IsMulticast() || n.target.IsUnspecified() {
		return ndpMessage{}, badTarget
	}
	mac, present, ok := linkOption(body[neighborLen:], link)
	if !ok || present && !station(mac) {
		return ndpMessage{}, badOption
	}
	if present {
		n.mac = mac
	}
	if n.solicitation && n.source.IsUnspecified() {
		if present || !solicitedNode(n.destination) {
			return ndpMessage{}, badDetection
		}
	}
	if !n.solicitation && (n.source.IsUnspecified() || n.destination.IsMulticast() && n.solicited) {
		return ndpMessage{}, badSender
	}
	return n, wellFormed
}

// linkOption walks the options and returns the first link-layer address of the
// kind wanted. Options that are not known are passed over (RFC 4861 section
// 4.6); ok is false when the walk cannot go on.
func linkOption(b []byte, kind byte) (mac lb.MAC, present, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || len(b) < 8*int(b[1]) {
			return mac, false, false
		}
		size := 8 * int(b[1])
		if b[0] == kind && !present {
			if size != 8 {
				return mac, false, false
			}
			present = true
			copy(mac[:], b[2:8])
		}
		b = b[size:]
	}
	return mac, present, true
}

// solicitedNode reports whether an address is a solicited-node group.
func solicitedNode(a netip.Addr) bool { return a == layer2.GroupOf(a).Address() }

// checksum sums up an ICMPv6 message with its pseudo-header (RFC 8200 section
// 8.1). Over a message with a right checksum it is zero.
func checksum(addresses, body []byte) uint16 {
	sum := uint32(len(body)) + protocolICMPv6
	for _, part := range [][]byte{addresses, body} {
		for ; len(part) > 1; part = part[2:] {
			sum += uint32(part[0])<<8 | uint32(part[1])
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// receiveNDP decides over a frame.
func receiveNDP(t *layer2.Table, s *layer2.Station, ifindex int, frame []byte) outcome {
	n, m := parseNDP(frame)
	if m != wellFormed {
		return malformedFrame(m)
	}
	o := outcome{asked: n.solicitation, usedBy: n.mac, foreign: !s.Ours(n.mac) && !s.Ours(n.from)}
	switch {
	case !n.solicitation && n.solicited:
		o.uses, o.kind = n.target, layer2.HeardReply
	case !n.solicitation:
		o.uses, o.kind = n.target, layer2.HeardAnnouncement
	case n.source.IsUnspecified():
		o.uses, o.kind = n.target, layer2.HeardProbe
	default:
		o.uses, o.kind = n.source, layer2.HeardRequest
	}
	if n.solicitation {
		o.verdict = t.Decide(s, layer2.Question{Interface: ifindex, Target: n.target, Sender: n.source, SenderMAC: n.from})
		if mac := s.MAC(ifindex); o.verdict == layer2.Answered && station(mac) {
			o.reply = answerNDP(mac, n)
		}
	}
	return o
}

// answerNDP answers a solicitation (RFC 4861 section 7.2.4). The asker learns
// of us at once even if it still holds another node's hardware address, so
// Override is always set.
func answerNDP(from lb.MAC, n ndpMessage) []byte {
	if n.source.IsUnspecified() {
		return advertisement(allNodesMAC, from, n.target, allNodes, false)
	}
	return advertisement(n.mac, from, n.target, n.source, true)
}

// unsolicitedNA announces an address (RFC 4861 section 7.2.6).
func unsolicitedNA(_ layer2.Form, from lb.MAC, address netip.Addr) []byte {
	return advertisement(allNodesMAC, from, address, allNodes, false)
}

func advertisement(to, from lb.MAC, target, destination netip.Addr, solicited bool) []byte {
	return marshalNDP(to, from, target, destination, &ndp.NeighborAdvertisement{
		Solicited: solicited, Override: true, TargetAddress: target,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: net.HardwareAddr(from[:])}},
	})
}

// solicitation asks who has target. From the unspecified address it detects a
// duplicate and goes to the target's group; else it goes to the target itself
// when its hardware address is known.
func solicitation(to, from lb.MAC, source, target netip.Addr) []byte {
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if !source.IsUnspecified() {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(from[:])}}
	}
	destination := target
	if to == (lb.MAC{}) {
		destination = layer2.GroupOf(target).Address()
		to = multicastMAC(destination)
	}
	return marshalNDP(to, from, source, destination, m)
}

// marshalNDP returns nil for a message that cannot be expressed, which those
// built here can.
func marshalNDP(to, from lb.MAC, source, destination netip.Addr, m ndp.Message) []byte {
	body, err := ndp.MarshalMessageChecksum(m, source, destination)
	if err != nil {
		return nil
	}
	b := ethernet(make([]byte, 0, etherLen+ipv6Len+len(body)), to, from, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, protocolICMPv6, neighborHops)
	b = append(b, source.AsSlice()...)
	b = append(b, destination.AsSlice()...)
	return append(b, body...)
}
