package gobgp

import (
	"context"
	"log/slog"

	"github.com/osrg/gobgp/v3/pkg/log"
)

// A logger passes gobgp's log on. What gobgp calls information is of use to
// a person who looks into gobgp, and what it calls fatal ends nothing here.
type logger struct{ to *slog.Logger }

func (l logger) log(level slog.Level, msg string, fields log.Fields) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]any, 0, len(fields))
	for k, v := range fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	l.to.Log(context.Background(), level, "gobgp: "+msg, slog.Group("gobgp", attrs...))
}

func (l logger) Panic(msg string, fields log.Fields) { l.log(slog.LevelError, msg, fields) }
func (l logger) Fatal(msg string, fields log.Fields) { l.log(slog.LevelError, msg, fields) }
func (l logger) Error(msg string, fields log.Fields) { l.log(slog.LevelError, msg, fields) }
func (l logger) Warn(msg string, fields log.Fields)  { l.log(slog.LevelDebug, msg, fields) }
func (l logger) Info(msg string, fields log.Fields)  { l.log(slog.LevelDebug, msg, fields) }
func (l logger) Debug(msg string, fields log.Fields) { l.log(slog.LevelDebug-4, msg, fields) }

// SetLevel does nothing: the level is slog's.
func (l logger) SetLevel(log.LogLevel) {}

// GetLevel keeps gobgp from formatting what is not written.
func (l logger) GetLevel() log.LogLevel {
	if l.to.Enabled(context.Background(), slog.LevelDebug-4) {
		return log.DebugLevel
	}
	return log.InfoLevel
}
