package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A State is the state of a session (RFC 5880 section 6.2). The values are those
// of the packet.
type State uint8

// States.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String returns the RFC's name.
func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// A Diag says why a session went down last (RFC 5880 section 4.1).
type Diag uint8

// Diagnostics that this implementation gives.
const (
	NoDiag               Diag = 0
	DetectionTimeExpired Diag = 1
	NeighborDown         Diag = 3
	AdministrativelyDown Diag = 7
)

// String returns the diagnostic in words.
func (d Diag) String() string {
	names := [...]string{
		"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

// PacketLen is the length of a control packet without authentication.
const PacketLen = 24

// A Packet is a control packet (RFC 5880 section 4.1).
type Packet struct {
	Diag  Diag
	State State
	// Poll asks for an answer with Final.
	Poll, Final bool
	// Demand asks for silence while the session is up.
	Demand     bool
	Multiplier uint8
	// Mine and Yours are the discriminators of the sender and of the receiver.
	Mine, Yours uint32
	// DesiredTx and RequiredRx are the intervals that the sender would send at
	// and can receive at.
	DesiredTx, RequiredRx time.Duration
	// Auth is how the packet is authenticated, if it is.
	Auth AuthSection
}

const (
	flagPoll       = 0x20
	flagFinal      = 0x10
	flagAuth       = 0x04
	flagDemand     = 0x02
	flagMultipoint = 0x01
)

// Errors of Parse.
var (
	ErrShort          = errors.New("packet is cut short")
	ErrVersion        = errors.New("not BFD version 1")
	ErrMultiplier     = errors.New("detection multiplier is zero")
	ErrMultipoint     = errors.New("multipoint is not understood")
	ErrAuthentication = errors.New("authentication is not keyed SHA-1")
	ErrDiscriminator  = errors.New("discriminator is zero")
)

// Parse parses a control packet, and discards what RFC 5880 section 6.8.6 says is
// to be discarded whatever the session. Whether its authentication holds is for the
// session to say.
func Parse(b []byte) (Packet, error) {
	switch {
	case len(b) < PacketLen || int(b[3]) < PacketLen || int(b[3]) > len(b):
		return Packet{}, ErrShort
	case b[0]>>5 != 1:
		return Packet{}, ErrVersion
	case b[2] == 0:
		return Packet{}, ErrMultiplier
	case b[1]&flagMultipoint != 0:
		return Packet{}, ErrMultipoint
	}
	micros := func(at int) time.Duration {
		return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Microsecond
	}
	p := Packet{
		Diag: Diag(b[0] & 0x1f), State: State(b[1] >> 6), Poll: b[1]&flagPoll != 0, Final: b[1]&flagFinal != 0, Demand: b[1]&flagDemand != 0,
		Multiplier: b[2], Mine: binary.BigEndian.Uint32(b[4:]), Yours: binary.BigEndian.Uint32(b[8:]),
		DesiredTx: micros(12), RequiredRx: micros(16),
	}
	if b[1]&flagAuth != 0 {
		section := b[PacketLen:b[3]]
		if len(section) != authLen || section[1] != authLen || section[0] != byte(KeyedSHA1) && section[0] != byte(MeticulousKeyedSHA1) {
			return Packet{}, ErrAuthentication
		}
		p.Auth = AuthSection{Type: AuthType(section[0]), KeyID: section[2], Sequence: binary.BigEndian.Uint32(section[4:]), Digest: [20]byte(section[8:])}
	}
	if p.Mine == 0 || p.Yours == 0 && p.State != Down && p.State != AdminDown {
		return Packet{}, ErrDiscriminator
	}
	return p, nil
}

// Append appends a control packet.
func Append(b []byte, p Packet) []byte {
	flags, length := byte(p.State)<<6, byte(PacketLen)
	if p.Auth.Type != NoAuth {
		flags, length = flags|flagAuth, PacketLen+authLen
	}
	for _, f := range []struct {
		set bool
		bit byte
	}{{p.Poll, flagPoll}, {p.Final, flagFinal}, {p.Demand, flagDemand}} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, 1<<5|byte(p.Diag)&0x1f, flags, p.Multiplier, length)
	for _, v := range []uint32{p.Mine, p.Yours, uint32(p.DesiredTx / time.Microsecond), uint32(p.RequiredRx / time.Microsecond), 0} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	if p.Auth.Type != NoAuth {
		b = append(b, byte(p.Auth.Type), authLen, p.Auth.KeyID, 0)
		b = binary.BigEndian.AppendUint32(b, p.Auth.Sequence)
		b = append(b, p.Auth.Digest[:]...)
	}
	return b
}

// String returns the packet for people and transcripts.
func (p Packet) String() string {
	s := fmt.Sprintf("%v", p.State)
	for _, f := range []struct {
		set  bool
		name string
	}{{p.Poll, " poll"}, {p.Final, " final"}, {p.Demand, " demand"}} {
		if f.set {
			s += f.name
		}
	}
	s += fmt.Sprintf(" mine %d yours %d tx %v rx %v x%d", p.Mine, p.Yours, p.DesiredTx, p.RequiredRx, p.Multiplier)
	if p.Auth.Type != NoAuth {
		s += fmt.Sprintf(" key %d seq %d", p.Auth.KeyID, p.Auth.Sequence)
	}
	if p.Diag != NoDiag {
		s += ", " + p.Diag.String()
	}
	return s
}
