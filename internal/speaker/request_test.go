package speaker

import (
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/proof"
)

func TestASpeakerAsksWhatSomebodyWantsToKnow(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("b"))
		w.cluster.edit(on("b"))
		w.start()
		w.owned("b")
		a := w.node("a")
		for _, address := range []string{v4.String(), v6.String(), "2001:db8::12"} { // which b owns, and its own
			a.requests <- address + " x"
			begun := time.Now()
			time.Sleep(2 * time.Second)
			is := a.speaker.State().Response
			if is == nil || is.Request != address+" x" || is.Interface != "eth0" || len(is.Heard) != 1 {
				t.Fatalf("%s: %+v", address, is)
			}
			h, want := is.Heard[0], proof.Speaker
			if address == "2001:db8::12" {
				want = proof.Kernel
			}
			if h.Node != "b" || h.Voice != want || h.MAC != w.node("b").link.Interfaces()[0].MAC {
				t.Errorf("%s: %+v answers, want %v of b", address, h, want)
			}
			if took := is.At.Sub(begun); took > 2*time.Second {
				t.Errorf("%s: answered after %v", address, took)
			}
		}
	})
}
