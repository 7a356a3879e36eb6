// Package stonith switches storage hosts off with the operator's own commands, and
// believes it only when another of them has said that they are off (reliability 3.4).
//
// It starts processes from argument lists, without a shell and with an empty
// environment, and ends them with all they started when their time is over. When a
// host is to be switched off is not its business; it imports nothing of tarn.
package stonith
