package link

import (
	"net"
	"net/netip"

	"github.com/mdlayher/arp"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// An arpMessage is an ARP packet for IPv4 on Ethernet that may be believed.
type arpMessage struct {
	request        bool
	sender, target netip.Addr
	// targetMAC is whom a reply is to.
	senderMAC, targetMAC lb.MAC
}

// parseARP reads a frame.
func parseARP(frame []byte) (arpMessage, malformation) {
	_, payload, m := deframe(frame, etherARP)
	if m != wellFormed {
		return arpMessage{}, m
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(payload); err != nil {
		return arpMessage{}, truncated
	}
	// Type 6 is what some stations send on Ethernet after IEEE 802 habit; the
	// kernel takes it as well.
	if p.HardwareType != 1 && p.HardwareType != 6 || p.ProtocolType != 0x0800 || p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return arpMessage{}, badHardwareType
	}
	if p.Operation != arp.OperationRequest && p.Operation != arp.OperationReply {
		return arpMessage{}, badOperation
	}
	a := arpMessage{request: p.Operation == arp.OperationRequest, sender: p.SenderIP, target: p.TargetIP}
	copy(a.senderMAC[:], p.SenderHardwareAddr)
	copy(a.targetMAC[:], p.TargetHardwareAddr)
	switch {
	case !station(a.senderMAC), a.sender.IsMulticast(), a.sender.IsLoopback(), a.sender == allOnes:
		return arpMessage{}, badSender
	case a.request && (!a.target.IsValid() || a.target.IsUnspecified() || a.target.IsMulticast() || a.target.IsLoopback()):
		return arpMessage{}, badTarget
	default:
		return a, wellFormed
	}
}

var allOnes = netip.AddrFrom4([4]byte{0xff, 0xff, 0xff, 0xff})

// receiveARP decides over a frame.
func receiveARP(t *layer2.Table, s *layer2.Station, ifindex int, frame []byte) outcome {
	a, m := parseARP(frame)
	if m != wellFormed {
		return malformedFrame(m)
	}
	o := outcome{asked: a.request, uses: a.sender, usedBy: a.senderMAC, foreign: !s.Ours(a.senderMAC)}
	switch {
	case a.sender.IsUnspecified():
		o.uses, o.kind = a.target, layer2.HeardProbe
	case a.sender == a.target:
		o.kind = layer2.HeardAnnouncement
	case a.request:
		o.kind = layer2.HeardRequest
	default:
		o.kind = layer2.HeardReply
	}
	if a.request {
		o.verdict = t.Decide(s, layer2.Question{Interface: ifindex, Target: a.target, Sender: a.sender, SenderMAC: a.senderMAC})
		if mac := s.MAC(ifindex); o.verdict == layer2.Answered && station(mac) {
			// RFC 826: to the sender, also when it has no address yet.
			o.reply = marshalARP(arp.OperationReply, a.senderMAC, mac, a.target, a.senderMAC, a.sender)
		}
	}
	return o
}

// gratuitousARP announces an address (RFC 5227 section 2.3, and its reply form).
func gratuitousARP(form layer2.Form, from lb.MAC, address netip.Addr) []byte {
	if form == layer2.GratuitousReply {
		return marshalARP(arp.OperationReply, broadcast, from, address, broadcast, address)
	}
	return marshalARP(arp.OperationRequest, broadcast, from, address, lb.MAC{}, address)
}

// requestARP asks who has target. An invalid sender makes it a probe.
func requestARP(to, from lb.MAC, sender, target netip.Addr) []byte {
	if !sender.IsValid() {
		sender = netip.IPv4Unspecified()
	}
	return marshalARP(arp.OperationRequest, to, from, sender, lb.MAC{}, target)
}

func marshalARP(op arp.Operation, to, senderMAC lb.MAC, sender netip.Addr, targetMAC lb.MAC, target netip.Addr) []byte {
	p := arp.Packet{
		HardwareType: 1, ProtocolType: 0x0800, HardwareAddrLength: 6, IPLength: 4, Operation: op,
		SenderHardwareAddr: net.HardwareAddr(senderMAC[:]), SenderIP: sender,
		TargetHardwareAddr: net.HardwareAddr(targetMAC[:]), TargetIP: target,
	}
	body, _ := p.MarshalBinary() // documented never to fail
	return append(ethernet(make([]byte, 0, etherLen+len(body)), to, senderMAC, etherARP), body...)
}
