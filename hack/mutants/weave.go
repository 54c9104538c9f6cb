package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An edit replaces a piece of a file.
type edit struct {
	at, length int
	text       string
	// order sorts the edits of one place: what ends there comes before what begins
	// there, and the outer begins first and ends last.
	order int
}

// weave returns a file with all its mutants in it, turned off. No line moves.
func (s *subject) weave(file int) []byte {
	var edits []edit
	for n, m := range s.mutants {
		if m.file != file || m.node == nil {
			continue
		}
		number := func(text string) string {
			if strings.Contains(text, "%d") {
				return fmt.Sprintf(text, n+1)
			}
			return text
		}
		from, to := s.fset.Position(m.node.Pos()).Offset, s.fset.Position(m.node.End()).Offset
		edits = append(edits, edit{at: from, text: number(m.before), order: n + 1}, edit{at: to, text: number(m.after), order: -n - 1})
		if m.replaced != "" {
			at := s.fset.Position(m.within.from).Offset
			edits = append(edits, edit{at: at, length: s.fset.Position(m.within.to).Offset - at, text: number(m.replaced), order: len(s.mutants) + 1})
		}
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) })
	text := s.files[file].text
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(out, text[at:e.at]...)
		out = append(out, e.text...)
		at = e.at + e.length
	}
	return append(out, text[at:]...)
}

// support is the file that turns mutants on: the one of which the environment
// has the number. When it names a file instead, every mutant that is reached is
// noted there.
func (s *subject) support() []byte {
	return []byte(fmt.Sprintf(support, s.pkg.Name(), len(s.mutants)+2))
}

// supportNeeds are the packages that it imports.
var supportNeeds = []string{"cmp", "os", "strconv", "sync/atomic"}

const support = `package %s

import (
	"cmp"
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantActive  = func() int { n, _ := strconv.Atoi(os.Getenv("MUTANT")); return n }()
	mutantReached = func() *os.File { f, _ := os.OpenFile(os.Getenv("MUTANTS_REACHED"), os.O_APPEND|os.O_WRONLY, 0); return f }()
	mutantNoted   [%d]atomic.Bool
)

func mutantOn(n int) bool {
	if mutantReached != nil {
		mutantNote(n)
	}
	return n == mutantActive
}

func mutantNote(n int) {
	if !mutantNoted[n].Load() && !mutantNoted[n].Swap(true) {
		_, _ = mutantReached.WriteString(strconv.Itoa(n) + "\n")
	}
}

type mutantInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

type mutantNumber interface {
	mutantInteger | ~float32 | ~float64
}

func mutantLess[T cmp.Ordered](n int, a, b T) bool    { return a < b || mutantOn(n) && a == b }
func mutantAtMost[T cmp.Ordered](n int, a, b T) bool  { return a <= b && !(mutantOn(n) && a == b) }
func mutantMore[T cmp.Ordered](n int, a, b T) bool    { return a > b || mutantOn(n) && a == b }
func mutantAtLeast[T cmp.Ordered](n int, a, b T) bool { return a >= b && !(mutantOn(n) && a == b) }

func mutantAdd[T mutantNumber](n int, a, b T) T {
	if mutantOn(n) {
		return a - b
	}
	return a + b
}

func mutantSub[T mutantNumber](n int, a, b T) T {
	if mutantOn(n) {
		return a + b
	}
	return a - b
}

func mutantMul[T mutantNumber](n int, a, b T) T {
	if mutantOn(n) {
		return a + b
	}
	return a * b
}

func mutantQuo[T mutantNumber](n int, a, b T) T {
	if mutantOn(n) {
		return a * b
	}
	return a / b
}

func mutantRem[T mutantInteger](n int, a, b T) T {
	if mutantOn(n) {
		return a * b
	}
	return a %% b
}

func mutantAnd[T mutantInteger](n int, a, b T) T {
	if mutantOn(n) {
		return a | b
	}
	return a & b
}

func mutantOr[T mutantInteger](n int, a, b T) T {
	if mutantOn(n) {
		return a & b
	}
	return a | b
}

func mutantMin[T cmp.Ordered](n int, a, b T) T { return mutantEither(n, a, b, min(a, b)) }
func mutantMax[T cmp.Ordered](n int, a, b T) T { return mutantEither(n, a, b, max(a, b)) }

func mutantEither[T any](n int, a, b, both T) T {
	switch first, second := mutantOn(n), mutantOn(n+1); {
	case first:
		return a
	case second:
		return b
	}
	return both
}

func mutantNext[T mutantNumber](n int, c T) T {
	if mutantOn(n) {
		return c + 1
	}
	return c
}

func mutantTwice[T ~int64](n int, c T) T {
	switch {
	case !mutantOn(n):
		return c
	case c == 0:
		return 1e9
	}
	return 2 * c
}
`
