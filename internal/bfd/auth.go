package bfd

import (
	"crypto/sha1"
	"crypto/subtle"
	"errors"
	"slices"
)

// An AuthType is how packets are authenticated. The values are those of the packet
// (RFC 5880 section 4.1).
type AuthType uint8

// The kinds of authentication that are understood. Simple passwords and MD5 are
// not: the one protects from nothing, the other is no easier to have than SHA-1.
const (
	NoAuth              AuthType = 0
	KeyedSHA1           AuthType = 4
	MeticulousKeyedSHA1 AuthType = 5
)

// KeyLen is how many octets of a key count at most (RFC 5880 section 4.4).
const KeyLen = sha1.Size

// authLen is the length of the authentication section of SHA-1.
const authLen = 8 + sha1.Size

// A Key is a shared secret with the number that packets name it by. The secret is
// held by pointer, so that whatever prints a Key does not print it.
type Key struct {
	ID   uint8
	text *[KeyLen]byte
}

// NewKey returns a key; of a text that is longer than KeyLen the rest does not
// count.
func NewKey(id uint8, text string) Key {
	k := Key{ID: id, text: new([KeyLen]byte)}
	copy(k.text[:], text)
	return k
}

func (k Key) equal(o Key) bool { return k.ID == o.ID && *k.text == *o.text }

// An Authentication is how both ends show that they know a key. The first key
// signs; any of them is accepted, so that the ends need not change theirs at the
// same moment (RFC 5880 section 6.7). The zero value is no authentication.
type Authentication struct {
	Type AuthType
	Keys []Key
}

func (a Authentication) equal(o Authentication) bool {
	return a.Type == o.Type && slices.EqualFunc(a.Keys, o.Keys, Key.equal)
}

// An AuthSection is what a packet says of its authentication (RFC 5880 section
// 4.4).
type AuthSection struct {
	Type     AuthType
	KeyID    uint8
	Sequence uint32
	Digest   [sha1.Size]byte
}

// Why a packet is refused that is for this session.
var (
	ErrSigned   = errors.New("the neighbor authenticates its packets, and this end does not: set authentication in the BFDProfile, or turn it off there")
	ErrUnsigned = errors.New("the neighbor does not authenticate its packets, and this end does: give it the key, or leave authentication out of the BFDProfile")
	ErrAuthType = errors.New("the neighbor authenticates its packets in another way")
	ErrKeyID    = errors.New("the neighbor signs with a key whose ID this end does not have")
	ErrDigest   = errors.New("the neighbor's signature is wrong: its key has another text")
	ErrSequence = errors.New("the neighbor's packets are out of sequence: old ones, or it has restarted")
)

// verify reports why octets were not sent by a router that knows a key. What
// the sequence number is worth is for the session to say.
func (a Authentication) verify(b []byte, p Packet) error {
	switch {
	case a.Type == NoAuth && p.Auth.Type != NoAuth:
		return ErrSigned
	case a.Type == NoAuth:
		return nil
	case p.Auth.Type == NoAuth:
		return ErrUnsigned
	case p.Auth.Type != a.Type:
		return ErrAuthType
	}
	err := ErrKeyID
	for _, k := range a.Keys {
		if k.ID != p.Auth.KeyID {
			continue
		}
		want := digest(b, k)
		if subtle.ConstantTimeCompare(want[:], p.Auth.Digest[:]) == 1 {
			return nil
		}
		err = ErrDigest
	}
	return err
}

// sign writes the digest into a packet of octets that has a section for it.
func sign(b []byte, k Key) {
	sum := digest(b, k)
	copy(b[PacketLen+8:], sum[:])
}

// digest returns the digest of a packet: that of its octets, with the key where the
// digest is (RFC 5880 section 6.7.4).
func digest(b []byte, k Key) [sha1.Size]byte {
	var text [PacketLen + authLen]byte
	copy(text[:], b)
	copy(text[PacketLen+8:], k.text[:])
	return sha1.Sum(text[:])
}
