package membership

import (
	"bytes"
	"context"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// A logSink takes memberlist's log lines. memberlist tells of a packet that it
// dropped, of a member that answered by a connection alone and of one that did not
// answer in time, by a line of log and in no other way.
type logSink struct {
	log     *slog.Logger
	dropped *prometheus.CounterVec
	// connected is called for a member that has answered a ping by TCP alone.
	connected func(node string)
	// unanswered is called for a member of which no packet has answered a ping in time.
	unanswered func(node string)
}

// A line with these before and after its name tells of such a member. Tests have both.
const (
	connectedBefore  = "Was able to connect to "
	connectedAfter   = " over TCP but UDP probes failed"
	unansweredBefore = "Failed UDP ping: "
	unansweredAfter  = " (timeout reached)"
)

// Reasons for which something received was dropped.
const (
	dropForeign   = "foreign"   // Not encrypted with our key, or a stream from no Node's address.
	dropMalformed = "malformed" // Ours by its key, but not understood.
	dropOverflow  = "overflow"  // More than could be taken in.
)

// lineReasons finds the reason in the line. A test sends such packets, so a
// library that words them differently is noticed.
var lineReasons = []struct{ part, reason string }{
	{"Decrypt packet failed", dropForeign},
	{"encryption is configured but remote state is not encrypted", dropForeign},
	{"no installed keys could decrypt", dropForeign},
	{"too small to decrypt", dropForeign},
	{"unsupported encryption version", dropForeign},
	{"remote node state is larger than limit", dropForeign},
	{"failed to receive and remove the stream label header", dropForeign},
	{"unacceptable label", dropForeign},
	{"handler queue full", dropOverflow},
	{"Failed to decode", dropMalformed},
	{"not supported", dropMalformed},
	{"missing message type byte", dropMalformed},
}

// Write takes one line. What memberlist finds worth an error is mostly the
// ordinary end of a probe, so it is told at debug level; what an operator
// should know is logged by this package itself.
func (s *logSink) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	for _, l := range lineReasons {
		if strings.Contains(text, l.part) {
			s.dropped.WithLabelValues(l.reason).Inc()
			break
		}
	}
	for _, tells := range []struct {
		before, after string
		of            func(node string)
	}{{connectedBefore, connectedAfter, s.connected}, {unansweredBefore, unansweredAfter, s.unanswered}} {
		if _, rest, is := strings.Cut(text, tells.before); is {
			if node, _, is := strings.Cut(rest, tells.after); is {
				tells.of(node)
			}
		}
	}
	level := slog.LevelDebug
	if strings.Contains(text, "Conflicting address for") {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "memberlist", "text", text)
	return len(line), nil
}
