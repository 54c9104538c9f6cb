// Package gossipkey decides by which keys gossip is encrypted, and how one takes the
// place of another while the speakers go on hearing each other.
//
// The gossip Secret has up to two keys: the one to send with, and beside it either the
// next or the previous one, which is accepted as well. A change takes three steps, each
// of which waits until every speaker that lives has followed the one before:
//
//	key: old                   all send old
//	key: old, next: new        all accept new, and send old
//	key: new, previous: old    all send new, and accept old
//	key: new                   old is worth nothing
//
// Two faults are possible and no others: a key that is used before all accept it, and
// one that is removed before all have stopped to send with it. Speakers then lose each
// other, and each answers for everything. So no step is taken because time has passed.
//
// Where the Secret is lost and nobody has the text of the key that speakers use, the
// same steps are taken with that key's ID in place of its text: those that run have it
// in memory, and those that start wait until it is out of use.
package gossipkey

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// MinText is the least length of a key's text: 16 random bytes in base64. A person may
// write the Secret by hand, and a short word hashed is still a short word.
const MinText = 24

// A Key encrypts gossip (AES-256-GCM). The zero Key is none.
type Key [sha256.Size]byte

// Of returns the key of a text: the SHA-256 of all of it, so that no part of the text is
// the key.
func Of(text []byte) (Key, error) {
	if len(text) < MinText {
		return Key{}, fmt.Errorf("it has %d bytes, want %d random ones at least", len(text), MinText)
	}
	return sha256.Sum256(text), nil
}

// None reports whether there is no key.
func (k Key) None() bool { return k == Key{} }

// An ID tells keys apart and is worth nothing without them: the first four bytes of the
// key's SHA-256, as eight hexadecimal digits. It is empty for no key.
type ID string

// ID returns the key's.
func (k Key) ID() ID {
	if k.None() {
		return ""
	}
	sum := sha256.Sum256(k[:])
	return ID(hex.EncodeToString(sum[:4]))
}

// String returns the ID, so that a key that is printed is not shown.
func (k Key) String() string { return string(k.ID()) }

// GoString does the same.
func (k Key) GoString() string { return k.String() }

// Format does the same for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// A Ring is the keys of one speaker: it sends with the first, and accepts both. It never
// has three.
type Ring struct {
	Send Key
	Also Key // None but while keys change.
}

// Use is what a speaker says of its Ring.
type Use struct {
	Sends   ID
	Accepts []ID // Ascending.
	// Seen is the version of the Secret that it follows.
	Seen string
}

// Use returns what the Ring uses, which follows a version of the Secret.
func (r Ring) Use(seen string) Use {
	u := Use{Sends: r.Send.ID(), Seen: seen}
	for _, k := range []Key{r.Send, r.Also} {
		if !k.None() {
			u.Accepts = append(u.Accepts, k.ID())
		}
	}
	slices.Sort(u.Accepts)
	return u
}

// Takes reports whether what is sent with a key is accepted.
func (u Use) Takes(id ID) bool { return slices.Contains(u.Accepts, id) }

// Equal reports whether two are the same.
func (u Use) Equal(o Use) bool {
	return u.Sends == o.Sends && u.Seen == o.Seen && slices.Equal(u.Accepts, o.Accepts)
}

// A Secret is what the gossip Secret says.
type Secret struct {
	// Key is to send with. Next and Previous are accepted as well; there is one of them
	// at most, and Previous counts where there are both.
	Key, Next, Previous Key
	// Lost are the keys that speakers send with and of which there is no text. Whoever has
	// two of them is to send with the first.
	Lost []ID
}

// Also returns the key that is accepted beside the first.
func (s Secret) Also() Key {
	if !s.Previous.None() {
		return s.Previous
	}
	return s.Next
}

// Errors of a speaker that cannot begin yet.
var (
	errNoKey = errors.New("there is no key in it yet")
	errLost  = errors.New("speakers that run use a key of which the Secret has no text; this speaker begins once they use the new one")
)

// Begin returns the keys of a speaker that starts.
func Begin(s Secret) (Ring, error) {
	switch {
	case len(s.Lost) > 0:
		return Ring{}, errLost
	case s.Key.None():
		return Ring{}, errNoKey
	}
	return Ring{s.Key, s.Also()}, nil
}

// Follow returns the keys of a speaker that runs. It sends with another key only once
// the Secret says that all accept that: because it names the one that it takes the place
// of. Who writes another key into the Secret by hand has it accepted, and no more.
func Follow(has Ring, s Secret) Ring {
	lost := func(k Key) bool { return !k.None() && slices.Contains(s.Lost, k.ID()) }
	switch {
	case s.Key.None() && lost(has.Send) && lost(has.Also):
		if slices.Index(s.Lost, has.Also.ID()) < slices.Index(s.Lost, has.Send.ID()) {
			return Ring{has.Also, has.Send}
		}
		return has
	case s.Key.None() && (s.Next.None() || s.Next == has.Send):
		return has
	case s.Key.None():
		return Ring{has.Send, s.Next}
	case s.Key == has.Send && lost(has.Also):
		return has
	case s.Key == has.Send:
		return Ring{has.Send, s.Also()}
	case s.Previous == has.Send || lost(has.Send):
		return Ring{s.Key, has.Send}
	default:
		return Ring{has.Send, s.Key}
	}
}
