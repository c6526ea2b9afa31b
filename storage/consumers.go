package storage

// ConsumerStats describes what waits for the consumer of that name; false:
// there is none. The maps are the caller's.
func (l *Log) ConsumerStats(name string) (CursorStats, bool) {
	l.mu.Lock()
	c := l.cursors[name]
	l.mu.Unlock()
	if c == nil {
		return CursorStats{}, false
	}
	return c.Stats(), true
}
