/* The daemon's log: lines on stderr.
 *
 * Lines go through a bounded queue and a thread of their own, so a blocked terminal or pipe never
 * stops the server; what does not fit is dropped and counted.  Lines never hold prompts, answers or
 * keys. Any thread. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

void log_open(void);

/* Writes what is queued, unless stderr is blocked, and ends the thread.  Before log_open and after
 * log_close lines are written directly. */
void log_close(void);

/* One line, with the time in front.  Control characters become '?'. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
