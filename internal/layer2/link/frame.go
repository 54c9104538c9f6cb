package link

import (
	"encoding/binary"
	"net/netip"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A malformation is the first rule that a frame breaks.
type malformation uint8

const (
	wellFormed malformation = iota
	truncated
	foreignEtherType
	badSource
	badHardwareType
	badOperation
	badSender
	badTarget
	badHopLimit
	badChecksum
	badCode
	badOption
	badDetection
)

var malformations = [...]string{
	"", "truncated", "ethertype", "source", "hardware-type", "operation", "sender", "target",
	"hop-limit", "checksum", "code", "option", "detection",
}

// String returns the rule's name, as metrics show it.
func (m malformation) String() string { return malformations[m] }

const (
	etherLen  = 14
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

var broadcast = lb.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ethernet appends an Ethernet header.
func ethernet(b []byte, to, from lb.MAC, etherType uint16) []byte {
	b = append(b, to[:]...)
	b = append(b, from[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// deframe takes the Ethernet header off a frame. The kernel has taken VLAN tags
// off already, and the filter has refused frames of VLANs that are not ours.
func deframe(frame []byte, etherType uint16) (source lb.MAC, payload []byte, m malformation) {
	if len(frame) < etherLen {
		return source, nil, truncated
	}
	copy(source[:], frame[6:12])
	switch {
	case binary.BigEndian.Uint16(frame[12:]) != etherType:
		return source, nil, foreignEtherType
	case !station(source):
		return source, nil, badSource
	default:
		return source, frame[etherLen:], wellFormed
	}
}

// station reports whether a hardware address can be a single station's.
func station(m lb.MAC) bool { return m[0]&1 == 0 && m != lb.MAC{} }

// An outcome is what a received frame amounts to.
type outcome struct {
	malformed malformation
	// asked says that the frame is a question; verdict is then what became of
	// it, and reply the frame to send if it is to be answered.
	asked   bool
	verdict layer2.Verdict
	reply   []byte
	// uses says that the sender uses the address, in the way of kind.
	uses   netip.Addr
	kind   layer2.HeardKind
	usedBy lb.MAC
	// foreign says that the sender is not this node.
	foreign bool
}

func malformedFrame(m malformation) outcome { return outcome{malformed: m} }
